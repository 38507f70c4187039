//! Python messages: serialization, and ids created on first read.
//!
//! | module | subject |
//! | --- | --- |
//! | [`writer`], [`reader`] | the parts of MessagePack that every value is made of |
//! | [`codec`] | what is known of one message class |
//! | [`encode`] | Python values and messages to MessagePack |
//! | [`decode`] | MessagePack to Python values and messages |
//! | [`objects`] | what decoded maps and extension types stand for |
//! | [`build`] | creates a message from decoded values |
//! | [`plain`] | the plain types that a field declares |
//! | [`errors`] | the class, the field and the cause |
//! | [`id`] | the id of a message, created on first read |
//! | [`python`] | operations on Python objects that PyO3 lacks |

mod build;
mod codec;
mod decode;
mod encode;
mod errors;
mod id;
mod objects;
mod plain;
mod python;
mod reader;
mod writer;

use pyo3::prelude::*;

pub(crate) use codec::class_mark;

/// Adds the names of this module to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<codec::MessageCodec>()?;
    module.add_class::<id::MessageIdField>()?;
    module.add_function(wrap_pyfunction!(encode::encode_message, module)?)?;
    module.add_function(wrap_pyfunction!(decode::decode_message, module)?)?;
    module.add_function(wrap_pyfunction!(decode::message_type_name, module)?)?;
    module.add_function(wrap_pyfunction!(decode::unpack, module)?)?;
    module.add_function(wrap_pyfunction!(id::lazy_message_id, module)?)?;
    module.add_function(wrap_pyfunction!(id::discard_spare_ids, module)?)?;
    Ok(())
}
