//! One worker of Envoy with the built module in it, on virtual time. What the module asks of any engine is counted to
//! the instruction, the same on every machine; how long Envoy's V8 would take for it cannot be told here.

mod abi;
mod instructions;
mod signatures;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;
use std::time::Duration;

use wasmi::{Engine, ExternType, Instance, Linker, Module, Store, Val};
use wasmi::{WasmParams, WasmResults};

use crate::heads::Headers;
pub use world::{Callout, Stream, World};

/// The root context of the one plugin.
const ROOT: u32 = 1;

/// What the module did while something happened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cost {
    /// How often each host call was made.
    pub host_calls: BTreeMap<String, u32>,
    /// How often the host had the module allocate room for what it handed over.
    pub handed_over: u32,
    /// How many instructions of the module were run.
    pub instructions: u64,
}

/// Who answers callouts: status and body, or nobody for now.
pub type Services = Box<dyn FnMut(&Callout) -> Option<(u16, Vec<u8>)>>;

/// The worker.
pub struct Vm {
    store: Store<World>,
    instance: Instance,
    services: Services,
    held: VecDeque<Callout>,
    last_context: u32,
}

/// The built module.
pub static PLAIN: LazyLock<Module> = LazyLock::new(|| module(&built()));

/// The same, which counts its instructions, and so is slower.
pub static COUNTING: LazyLock<Module> = LazyLock::new(|| module(&instructions::counted(&built())));

fn built() -> Vec<u8> {
    std::fs::read(harness::module::build()).unwrap()
}

fn module(bytes: &[u8]) -> Module {
    Module::new(&Engine::default(), bytes).unwrap()
}

impl Vm {
    /// A worker in which `module` has been loaded, with these variables in its environment.
    pub fn load(
        module: &Module,
        environment: &[(&str, &str)],
        now: Duration,
        services: Services,
    ) -> Self {
        let mut linker = Linker::new(module.engine());
        for import in module.imports() {
            let ExternType::Func(ty) = import.ty() else { panic!("not a function: {import:?}") };
            let name = import.name().to_owned();
            let call = move |mut caller: wasmi::Caller<'_, World>,
                             arguments: &[Val],
                             results: &mut [Val]| {
                let arguments: Vec<u64> = arguments.iter().map(abi::number).collect();
                caller.data_mut().count(&name);
                let status = abi::call(&mut caller, &name, &arguments)?;
                if let [result] = results {
                    *result = Val::I32(status.cast_signed());
                }
                Ok(())
            };
            linker.func_new(import.module(), import.name(), ty.clone(), call).unwrap();
        }
        let mut store = Store::new(module.engine(), World::new(environment, now));
        let instance = linker.instantiate_and_start(&mut store, module).unwrap();
        let held = VecDeque::new();
        let mut vm = Self { store, instance, services, held, last_context: ROOT };
        vm.call::<(), ()>("_initialize", ());
        vm
    }

    /// Has the plugin configured; its log where it refuses the config.
    #[track_caller]
    pub fn configure(&mut self, config: &serde_json::Value) {
        let config = config.to_string().into_bytes();
        let size = u32::try_from(config.len()).unwrap();
        self.store.data_mut().configuration = config;
        self.call::<_, ()>("proxy_on_context_create", (ROOT, 0));
        assert_eq!(self.call::<_, u32>("proxy_on_vm_start", (ROOT, 0)), 1);
        let taken = self.call::<_, u32>("proxy_on_configure", (ROOT, size));
        assert_eq!(taken, 1, "{:?}", self.world().log);
    }

    /// Lets time pass, and the tick at its end come.
    pub fn tick_after(&mut self, span: Duration) {
        self.store.data_mut().now += span;
        self.event("proxy_on_tick", ROOT);
        self.settle();
    }

    /// A request from its first header to its last, of which the upstream sees, or the client gets, what
    /// [`Stream`] says. It is held no longer than the services hold their answers.
    pub fn request(&mut self, head: Headers, properties: &[(&str, &[u8])]) -> Stream {
        let stream = self.begin(head, properties);
        self.settle();
        self.end(stream)
    }

    /// A request whose headers have come.
    pub fn begin(&mut self, head: Headers, properties: &[(&str, &[u8])]) -> u32 {
        self.last_context += 1;
        let id = self.last_context;
        let count = u32::try_from(head.len()).unwrap();
        self.store.data_mut().open(id, head, properties);
        self.call::<_, ()>("proxy_on_context_create", (id, ROOT));
        self.store.data_mut().context = id;
        let action = self.call::<_, u32>("proxy_on_request_headers", (id, count, 1_u32));
        self.store.data_mut().stream(id).goes_on = action == 0;
        id
    }

    /// The answer to a request has come, where it went on, and then it is over.
    pub fn end(&mut self, id: u32) -> Stream {
        self.store.data_mut().context = id;
        let end_of_stream = 1_u32;
        self.call::<_, u32>("proxy_on_response_headers", (id, 3_u32, end_of_stream));
        self.event("proxy_on_log", id);
        self.call::<_, u32>("proxy_on_done", id);
        self.event("proxy_on_delete", id);
        self.store.data_mut().close(id)
    }

    /// Delivers wakes, and what the services answer, until nothing more happens.
    pub fn settle(&mut self) {
        loop {
            if let Some(queue) = self.store.data_mut().ready.pop_front() {
                self.call::<_, ()>("proxy_on_queue_ready", (ROOT, queue));
            } else if let Some(callout) = self.store.data_mut().callouts.pop_front() {
                match (self.services)(&callout) {
                    Some((status, body)) => self.answer(&callout, status, body),
                    None => self.held.push_back(callout),
                }
            } else {
                break;
            }
        }
    }

    fn answer(&mut self, callout: &Callout, status: u16, body: Vec<u8>) {
        let size = u32::try_from(body.len()).unwrap();
        let headers = vec![
            (":status".to_owned(), status.to_string().into_bytes()),
            ("content-type".to_owned(), b"application/json".to_vec()),
            ("date".to_owned(), b"Thu, 01 Jan 2026 00:00:00 GMT".to_vec()),
        ];
        self.store.data_mut().answer = Some((headers, body));
        let arguments = (ROOT, callout.token, 3_u32, size, 0_u32);
        self.call::<_, ()>("proxy_on_http_call_response", arguments);
        self.store.data_mut().answer = None;
    }

    /// What the module did while `happening` happened.
    pub fn cost<T>(&mut self, happening: impl FnOnce(&mut Self) -> T) -> (T, Cost) {
        self.spent();
        let happened = happening(self);
        (happened, self.spent())
    }

    /// What the module did since this was last asked, or it was loaded, if it is [`COUNTING`].
    pub fn spent(&mut self) -> Cost {
        let counter = self.instance.get_global(&self.store, instructions::COUNTER).unwrap();
        let Val::I64(count) = counter.get(&self.store) else { panic!("not an i64: {counter:?}") };
        counter.set(&mut self.store, Val::I64(0)).unwrap();
        let instructions = count.cast_unsigned();
        Cost { instructions, ..std::mem::take(&mut self.store.data_mut().cost) }
    }

    /// How large the module's memory is, which never shrinks.
    pub fn memory_bytes(&self) -> usize {
        self.instance.get_memory(&self.store, "memory").unwrap().data_size(&self.store)
    }

    /// What is around the module.
    pub fn world(&self) -> &World {
        self.store.data()
    }

    /// How many callouts nobody has answered.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    fn event(&mut self, name: &str, context: u32) {
        self.call::<_, ()>(name, context);
    }

    #[track_caller]
    fn call<P: WasmParams, R: WasmResults>(&mut self, name: &str, parameters: P) -> R {
        let function = self.instance.get_typed_func::<P, R>(&self.store, name).unwrap();
        let result = function.call(&mut self.store, parameters);
        result.unwrap_or_else(|error| panic!("{name}: {error}\n{:?}", self.world().log))
    }
}
