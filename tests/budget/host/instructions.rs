//! Has a module count the instructions that it runs.
//!
//! An engine's own metering will not do: wasmi's fuel pays for a whole function where it is entered, however soon it
//! returns, and so tells how functions were inlined rather than what is run. Here, each run of instructions that is
//! only ever run as a whole adds its length to a counter first. So the count is exact, and no engine's affair.

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    CodeSection, ConstExpr, ExportKind, ExportSection, GlobalSection, GlobalType, Instruction,
    Module, ValType,
};
use wasmparser::{ExportSectionReader, FunctionBody, GlobalSectionReader, Parser};

/// The exported global that counts: an `i64`.
pub const COUNTER: &str = "instructions";

/// The same module, which counts. `memory.copy` and its like are one instruction each, whatever they move.
pub fn counted(module: &[u8]) -> Vec<u8> {
    let mut counted = Module::new();
    Counting { counter: 0 }.parse_core_module(&mut counted, Parser::new(0), module).unwrap();
    counted.finish()
}

struct Counting {
    counter: u32,
}

impl Reencode for Counting {
    type Error = Infallible;

    fn parse_global_section(
        &mut self,
        globals: &mut GlobalSection,
        section: GlobalSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        for global in section {
            self.parse_global(globals, global?)?;
        }
        // Behind all others, of which proxy-wasm has none imported.
        self.counter = globals.len();
        let ty = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        globals.global(ty, &ConstExpr::i64_const(0));
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        for export in section {
            self.parse_export(exports, export?);
        }
        exports.export(COUNTER, ExportKind::Global, self.counter);
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        function: FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        let mut counting = self.new_function_with_parsed_locals(&function)?;
        let mut run = Vec::new();
        let mut operators = function.get_operators_reader()?;
        while !operators.eof() {
            let instruction = self.parse_instruction(&mut operators)?;
            let is_last = ends_run(&instruction);
            run.push(instruction);
            if is_last {
                let length = run.iter().filter(|instruction| does_something(instruction)).count();
                if let Ok(length @ 1..) = i64::try_from(length) {
                    counting.instruction(&Instruction::GlobalGet(self.counter));
                    counting.instruction(&Instruction::I64Const(length));
                    counting.instruction(&Instruction::I64Add);
                    counting.instruction(&Instruction::GlobalSet(self.counter));
                }
                for instruction in run.drain(..) {
                    counting.instruction(&instruction);
                }
            }
        }
        code.function(&counting);
        Ok(())
    }
}

/// Whether what follows may be run without this, or not be run though this is.
fn ends_run(instruction: &Instruction<'_>) -> bool {
    matches!(
        instruction,
        Instruction::Loop(_)
            | Instruction::If(_)
            | Instruction::Else
            | Instruction::End
            | Instruction::Br(_)
            | Instruction::BrIf(_)
            | Instruction::BrTable(..)
            | Instruction::Return
            | Instruction::Unreachable
    )
}

/// Whether an engine makes code of it.
fn does_something(instruction: &Instruction<'_>) -> bool {
    !matches!(
        instruction,
        Instruction::Block(_)
            | Instruction::Loop(_)
            | Instruction::Else
            | Instruction::End
            | Instruction::Nop
    )
}

/// ```text
/// (module
///   (global i64 (i64.const 0))
///   (func (export "f") (param i32) (result i32)
///     block local.get 0 br_if 0 i32.const 7 return end
///     loop local.get 0 i32.const 1 i32.sub local.tee 0 br_if 0 end
///     i32.const 9))
/// ```
#[test]
fn only_what_is_run_is_counted() {
    use wasmi::{Engine, Instance, Store, Val};
    const LOOPING: &[u8] = b"\0asm\x01\0\0\0\x01\x06\x01\x60\x01\x7f\x01\x7f\x03\x02\x01\0\
        \x06\x06\x01\x7e\0\x42\0\x0b\x07\x05\x01\x01f\0\0\x0a\x1c\x01\x1a\0\
        \x02\x40\x20\0\x0d\0\x41\x07\x0f\x0b\
        \x03\x40\x20\0\x41\x01\x6b\x22\0\x0d\0\x0b\x41\x09\x0b";
    let engine = Engine::default();
    let module = wasmi::Module::new(&engine, counted(LOOPING)).unwrap();
    // Two to find that it is 0 and two to return; two to go on, five for each round, and one at the end.
    for (rounds, instructions) in [(0, 4), (1, 8), (3, 18)] {
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance.get_typed_func::<i32, i32>(&store, "f").unwrap();
        f.call(&mut store, rounds).unwrap();
        let counter = instance.get_global(&store, COUNTER).unwrap().get(&store);
        assert!(
            matches!(counter, Val::I64(count) if count == instructions),
            "{rounds}: {counter:?}"
        );
    }
}
