//! Bytes as text, where they need not be valid UTF-8: what is not is replaced, as nothing that a
//! person looks at may fail for its sake.

use std::sync::Arc;

use arrow::array::{Array, StringViewBuilder};
use arrow::datatypes::DataType;
use datafusion::common::Result;
use datafusion::common::cast::as_binary_view_array;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// The function: bytes to text, with U+FFFD in place of what is no UTF-8.
pub(crate) fn text_lossy() -> ScalarUDF {
    ScalarUDF::from(TextLossy {
        signature: Signature::exact(vec![DataType::BinaryView], Volatility::Immutable),
    })
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct TextLossy {
    signature: Signature,
}

impl ScalarUDFImpl for TextLossy {
    fn name(&self) -> &str {
        "text_lossy"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8View)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let [bytes] = &arrays[..] else {
            return datafusion::common::internal_err!("text_lossy takes one column");
        };
        let bytes = as_binary_view_array(bytes)?;
        let mut texts = StringViewBuilder::with_capacity(bytes.len());
        for bytes in bytes {
            texts.append_option(bytes.map(String::from_utf8_lossy));
        }
        Ok(ColumnarValue::Array(Arc::new(texts.finish())))
    }
}
