//! Metadata values: the thirteen types of GGUF.

/// Calls a macro with variant, Rust type, wire id and name of each number type.
macro_rules! for_each_number {
    ($callback:ident) => {
        $callback! {
            U8 u8 0 "u8";
            I8 i8 1 "i8";
            U16 u16 2 "u16";
            I16 i16 3 "i16";
            U32 u32 4 "u32";
            I32 i32 5 "i32";
            F32 f32 6 "f32";
            U64 u64 10 "u64";
            I64 i64 11 "i64";
            F64 f64 12 "f64";
        }
    };
}
pub(crate) use for_each_number;

pub(crate) const BOOL_ID: u32 = 7;
pub(crate) const STRING_ID: u32 = 8;
pub(crate) const ARRAY_ID: u32 = 9;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its Rust type
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// A metadata array: elements of one type. GGUF's loaders refuse arrays of arrays, and so does llq.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // each variant is its Rust type
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Strings),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

macro_rules! types_and_conversions {
    ($($variant:ident $number:ident $id:literal $name:literal;)*) => {
        impl Value {
            /// The type's name, such as `u32`, `string` or `array of f32`.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Value::$variant(_) => $name,)*
                    Value::Bool(_) => "bool",
                    Value::String(_) => "string",
                    Value::Array(array) => array.type_name(),
                }
            }

            /// The wire id of the type.
            pub(crate) fn type_id(&self) -> u32 {
                match self {
                    $(Value::$variant(_) => $id,)*
                    Value::Bool(_) => BOOL_ID,
                    Value::String(_) => STRING_ID,
                    Value::Array(_) => ARRAY_ID,
                }
            }
        }

        impl Array {
            /// The type's name, such as `array of f32`.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Array::$variant(_) => concat!("array of ", $name),)*
                    Array::Bool(_) => "array of bool",
                    Array::String(_) => "array of string",
                }
            }

            /// The wire id of the elements' type.
            pub(crate) fn element_type_id(&self) -> u32 {
                match self {
                    $(Array::$variant(_) => $id,)*
                    Array::Bool(_) => BOOL_ID,
                    Array::String(_) => STRING_ID,
                }
            }

            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$variant(elements) => elements.len(),)*
                    Array::Bool(elements) => elements.len(),
                    Array::String(elements) => elements.len(),
                }
            }
        }

        $(
            impl From<$number> for Value {
                fn from(value: $number) -> Value {
                    Value::$variant(value)
                }
            }

            impl From<Vec<$number>> for Value {
                fn from(elements: Vec<$number>) -> Value {
                    Value::Array(Array::$variant(elements))
                }
            }
        )*
    };
}
for_each_number!(types_and_conversions);

impl Value {
    /// The value as an integer, whatever integer type it has.
    pub(crate) fn integer(&self) -> Option<i128> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::I8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::I16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::I32(n) => Some(n.into()),
            Value::U64(n) => Some(n.into()),
            Value::I64(n) => Some(n.into()),
            _ => None,
        }
    }
}

impl Array {
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Value {
        Value::Bool(value)
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Value {
        Value::String(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Value {
        Value::String(value)
    }
}

impl From<Array> for Value {
    fn from(array: Array) -> Value {
        Value::Array(array)
    }
}

impl From<Vec<bool>> for Value {
    fn from(elements: Vec<bool>) -> Value {
        Value::Array(Array::Bool(elements))
    }
}

impl From<Strings> for Value {
    fn from(strings: Strings) -> Value {
        Value::Array(Array::String(strings))
    }
}

impl From<Vec<String>> for Value {
    fn from(strings: Vec<String>) -> Value {
        Strings::from_iter(strings).into()
    }
}

impl From<Vec<&str>> for Value {
    fn from(strings: Vec<&str>) -> Value {
        Strings::from_iter(strings).into()
    }
}

/// An array of strings in one allocation: a vocabulary has a hundred thousand of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>,
}

impl Strings {
    /// An empty array with room for `strings` strings of `bytes` bytes in all.
    pub fn with_capacity(strings: usize, bytes: usize) -> Strings {
        Strings { text: String::with_capacity(bytes), ends: Vec::with_capacity(strings) }
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        Some(&self.text[start..end])
    }

    /// Adds a string at the end.
    pub fn push(&mut self, string: &str) {
        self.text.push_str(string);
        self.ends.push(self.text.len());
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut all = Strings::default();
        for string in strings {
            all.push(string.as_ref());
        }
        all
    }
}
