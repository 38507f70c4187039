//! Sets the `cfg` flags of PyO3 for the target interpreter, such as `Py_GIL_DISABLED`.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
