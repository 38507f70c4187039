//! Messages of Python: their bytes, and ids that exist once somebody asks for them.
//!
//! | module | subject |
//! | --- | --- |
//! | [`encode`] | Python values to MessagePack |
//! | [`decode`] | MessagePack to Python values |
//! | [`codec`] | both for one message class, over its fields |
//! | [`id`] | the id of a message, made when first read |

mod codec;
mod decode;
mod encode;
mod id;
mod python;

use pyo3::prelude::*;

/// Adds the names of this module to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<codec::MessageCodec>()?;
    module.add_class::<id::MessageIdField>()?;
    module.add_function(wrap_pyfunction!(codec::encode_message, module)?)?;
    module.add_function(wrap_pyfunction!(codec::decode_message, module)?)?;
    module.add_function(wrap_pyfunction!(codec::message_type_name, module)?)?;
    module.add_function(wrap_pyfunction!(decode::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(id::lazy_message_id, module)?)?;
    module.add_function(wrap_pyfunction!(id::discard_spare_ids, module)?)?;
    Ok(())
}
