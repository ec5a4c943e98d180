//! How large the module is.

use crate::budgets;

#[test]
fn the_module_is_no_larger_than_its_budget() {
    let bytes = std::fs::metadata(harness::module::build()).unwrap().len();
    println!("\nmodule: {bytes} bytes, budget {}", budgets::MODULE_BYTES);
    assert!(
        bytes <= budgets::MODULE_BYTES,
        "the module has {bytes} bytes, and may have {}: `cargo tree` and `twiggy top` tell what came in; if it is \
         worth it, raise `MODULE_BYTES` in tests/budget/budgets.rs",
        budgets::MODULE_BYTES
    );
}
