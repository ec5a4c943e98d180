//! What may be spent.
//!
//! All of it is counted, so it is the same on every machine, and a change here is a change of the code's. To
//! measure anew: `cargo test --test budget -- --nocapture`; what it prints is what goes below. Lower a budget
//! whenever the code has become cheaper, since only then does the test notice when it gets worse again.

mod check;

pub use check::{Overrun, told};

/// The built module's size, in bytes: 1,358,485 when last measured. It should be 1 MiB.
pub const MODULE_BYTES: u64 = 1_360_000;

/// The memory of a worker with the shipped gateway's config that holds all it may, in bytes: 20.62 MiB when last
/// measured. It should be 16 MiB.
pub const MEMORY_BYTES: usize = 22 * 1024 * 1024;

/// The same before any request, with a revocation feed of as many entries as may be: 15.12 MiB.
pub const MEMORY_BYTES_FEED: usize = 16 * 1024 * 1024;

/// The same with all that, a blacklist, and signed context: 27.62 MiB.
pub const MEMORY_BYTES_ALL: usize = 29 * 1024 * 1024;

/// How many more instructions than in the table pass, in percent: another compiler or crate moves them a little. Host
/// calls have no such slack.
const SLACK_PERCENT: u64 = 10;

/// What one event may cost.
pub struct Budget {
    /// The event.
    event: &'static str,
    /// The host calls that it makes: each of them, and no other. A name and how often.
    host_calls: &'static [(&'static str, u32)],
    /// How often the host has the module allocate room.
    handed_over: u32,
    /// How many instructions of the module were run when this was last measured.
    instructions: u64,
}

/// Loading the module and configuring it.
pub const START: Budget = Budget {
    event: "start",
    host_calls: &[
        ("proxy_call_foreign_function", 4),
        ("proxy_define_metric", 60),
        ("proxy_get_buffer_bytes", 1),
        ("proxy_log", 1),
        ("proxy_register_shared_queue", 1),
        ("proxy_set_tick_period_milliseconds", 1),
        ("random_get", 3),
    ],
    handed_over: 5,
    instructions: 894_610,
};

/// A tick while nothing happens: ten a second, in each worker.
pub const IDLE_TICK: Budget = Budget {
    event: "idle tick",
    host_calls: &[("proxy_get_current_time_nanoseconds", 2)],
    handed_over: 0,
    instructions: 8_856,
};

/// The tick after requests: it tells Envoy's metrics of them.
pub const BUSY_TICK: Budget = Budget {
    event: "tick after 100 warm requests",
    host_calls: &[("proxy_get_current_time_nanoseconds", 2), ("proxy_increment_metric", 3)],
    handed_over: 0,
    instructions: 9_566,
};

/// `mode: gateway`, a request that needs no user.
pub const ANONYMOUS: Budget = Budget {
    event: "gateway: anonymous",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_set_property", 1),
    ],
    handed_over: 1,
    instructions: 42_510,
};

/// `mode: gateway`, a user whose token and record are held: what nearly every request costs.
pub const WARM: Budget = Budget {
    event: "gateway: warm",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_remove_header_map_value", 1),
        ("proxy_replace_header_map_value", 5),
        ("proxy_set_property", 4),
    ],
    handed_over: 1,
    instructions: 80_787,
};

/// The same, where the client sent three context headers.
pub const WARM_FORGING: Budget = Budget {
    event: "gateway: warm, forging",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_remove_header_map_value", 4),
        ("proxy_replace_header_map_value", 5),
        ("proxy_set_property", 4),
    ],
    handed_over: 1,
    instructions: 88_675,
};

/// `mode: gateway`, a user's first request: verified by the host, looked up by a callout.
pub const COLD: Budget = Budget {
    event: "gateway: cold",
    host_calls: &[
        ("proxy_call_foreign_function", 1),
        ("proxy_continue_stream", 1),
        ("proxy_dequeue_shared_queue", 2),
        ("proxy_enqueue_shared_queue", 1),
        ("proxy_get_buffer_bytes", 1),
        ("proxy_get_current_time_nanoseconds", 2),
        ("proxy_get_header_map_pairs", 2),
        ("proxy_http_call", 1),
        ("proxy_remove_header_map_value", 1),
        ("proxy_replace_header_map_value", 5),
        ("proxy_set_effective_context", 2),
        ("proxy_set_property", 4),
    ],
    handed_over: 5,
    instructions: 231_886,
};

/// Refused.
pub const TOKEN_MISSING: Budget = Budget {
    event: "gateway: token missing",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_log", 1),
        ("proxy_send_local_response", 1),
        ("proxy_set_property", 3),
    ],
    handed_over: 1,
    instructions: 60_427,
};

/// Refused, verified by the host.
pub const TOKEN_EXPIRED: Budget = Budget {
    event: "gateway: token expired",
    host_calls: &[
        ("proxy_call_foreign_function", 1),
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_log", 1),
        ("proxy_send_local_response", 1),
        ("proxy_set_property", 4),
    ],
    handed_over: 2,
    instructions: 177_200,
};

/// Refused by the host.
pub const TOKEN_FORGED: Budget = Budget {
    event: "gateway: signature forged",
    host_calls: &[
        ("proxy_call_foreign_function", 1),
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_log", 1),
        ("proxy_send_local_response", 1),
        ("proxy_set_property", 4),
    ],
    handed_over: 2,
    instructions: 175_575,
};

/// Refused unread.
pub const TOKEN_GARBAGE: Budget = Budget {
    event: "gateway: no token at all",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_log", 1),
        ("proxy_send_local_response", 1),
        ("proxy_set_property", 3),
    ],
    handed_over: 1,
    instructions: 87_898,
};

/// `mode: service`, context that a peer asserts which may, by its certificate.
pub const SERVICE_WARM: Budget = Budget {
    event: "service: asserted",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        ("proxy_remove_header_map_value", 4),
        ("proxy_replace_header_map_value", 4),
        ("proxy_set_property", 2),
    ],
    handed_over: 2,
    instructions: 84_141,
};

/// `mode: egress`, context and the service's own token for another service of the mesh.
pub const EGRESS_WARM: Budget = Budget {
    event: "egress: warm",
    host_calls: &[
        ("proxy_get_current_time_nanoseconds", 1),
        ("proxy_get_header_map_pairs", 1),
        ("proxy_get_property", 1),
        ("proxy_remove_header_map_value", 4),
        ("proxy_replace_header_map_value", 6),
        ("proxy_set_property", 2),
    ],
    handed_over: 2,
    instructions: 68_944,
};

/// What the core may allocate for one event, natively.
pub struct AllocationBudget {
    /// The event.
    event: &'static str,
    /// How many allocations.
    count: u64,
    /// Of how many bytes, all together, and whether or not at the same time.
    bytes: u64,
}

/// [`ANONYMOUS`].
pub const CORE_ANONYMOUS: AllocationBudget =
    AllocationBudget { event: "gateway: anonymous", count: 10, bytes: 650 };

/// [`WARM`].
pub const CORE_WARM: AllocationBudget =
    AllocationBudget { event: "gateway: warm", count: 24, bytes: 1_874 };

/// [`WARM_FORGING`].
pub const CORE_WARM_FORGING: AllocationBudget =
    AllocationBudget { event: "gateway: warm, forging", count: 29, bytes: 2_241 };

/// [`TOKEN_MISSING`].
pub const CORE_REFUSED: AllocationBudget =
    AllocationBudget { event: "gateway: token missing", count: 6, bytes: 372 };

/// [`SERVICE_WARM`].
pub const CORE_SERVICE: AllocationBudget =
    AllocationBudget { event: "service: asserted", count: 52, bytes: 2_758 };
