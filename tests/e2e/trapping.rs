//! The built module with a trap in it: no way is known to have it trap, and what then happens must be known.
//!
//! Two of its functions are called by way of a new one that traps if the message has as many headers as no real one.
//! All else is as it was built.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, Instruction, Module,
};
use wasmparser::{
    CodeSectionReader, Export, ExportSectionReader, ExternalKind, FunctionSectionReader, Parser,
    Payload, TypeRef,
};

/// With so many headers, or more, a message traps: a request on its way in, and the answer to a call.
pub const HEADERS: u32 = 64;

/// What is led through a trap: the function, the number of its parameters, and which of them counts the headers.
const TRAPS: [(&str, u32, u32); 2] =
    [("proxy_on_request_headers", 3, 1), ("proxy_on_http_call_response", 5, 2)];

/// The same module, which traps.
pub fn trapping(module: &[u8]) -> Vec<u8> {
    let mut trapping = Module::new();
    Trapping::of(module).parse_core_module(&mut trapping, Parser::new(0), module).unwrap();
    trapping.finish()
}

struct Trapping {
    /// How many functions there were.
    functions: u32,
    /// The index and the type of each function of [`TRAPS`].
    led: Vec<(u32, u32)>,
}

impl Trapping {
    fn of(module: &[u8]) -> Self {
        let (mut types, mut exported) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload.unwrap() {
                Payload::ImportSection(imports) => {
                    types.extend(imports.into_iter().filter_map(
                        |import| match import.unwrap().ty {
                            TypeRef::Func(ty) => Some(ty),
                            _ => None,
                        },
                    ));
                }
                Payload::FunctionSection(functions) => {
                    types.extend(functions.into_iter().flatten());
                }
                Payload::ExportSection(exports) => {
                    exported = exports.into_iter().flatten().collect();
                }
                _ => {}
            }
        }
        let led = TRAPS.map(|(name, _, _)| {
            let export = exported.iter().find(|export| export.name == name).expect(name);
            (export.index, types[usize::try_from(export.index).unwrap()])
        });
        Self { functions: u32::try_from(types.len()).unwrap(), led: led.into() }
    }

    /// What to call in place of the exported function.
    fn detour(&self, export: &Export<'_>) -> Option<u32> {
        let function = matches!(export.kind, ExternalKind::Func);
        let place = TRAPS.iter().position(|(name, _, _)| function && export.name == *name)?;
        Some(self.functions + u32::try_from(place).unwrap())
    }
}

impl Reencode for Trapping {
    type Error = Infallible;

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: FunctionSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_function_section(self, functions, section)?;
        for (_, ty) in &self.led {
            functions.function(*ty);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        for export in section {
            let export = export?;
            match self.detour(&export) {
                Some(detour) => {
                    exports.export(export.name, ExportKind::Func, detour);
                }
                None => self.parse_export(exports, export),
            }
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: CodeSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_code_section(self, code, section)?;
        for ((_, parameters, headers), (function, _)) in TRAPS.into_iter().zip(&self.led) {
            let mut detour = Function::new([]);
            detour.instruction(&Instruction::LocalGet(headers));
            detour.instruction(&Instruction::I32Const(HEADERS.cast_signed()));
            detour.instruction(&Instruction::I32GeU);
            detour.instruction(&Instruction::If(wasm_encoder::BlockType::Empty));
            detour.instruction(&Instruction::Unreachable);
            detour.instruction(&Instruction::End);
            for parameter in 0..parameters {
                detour.instruction(&Instruction::LocalGet(parameter));
            }
            detour.instruction(&Instruction::Call(*function));
            detour.instruction(&Instruction::End);
            code.function(&detour);
        }
        Ok(())
    }
}
