//! The proxy-wasm shell: it carries events from Envoy to the core and edits back, and decides nothing.

mod host;
mod http;
mod root;

use proxy_wasm::traits::RootContext;

proxy_wasm::main! {{
    proxy_wasm::set_root_context(|context_id| -> Box<dyn RootContext> {
        Box::new(root::Root::new(context_id))
    });
}}
