//! A pickle machine that executes nothing.
//!
//! It knows the opcodes that `torch.save` emits and a handful of names. What a name stands for is
//! data here: "call" means to describe a tensor. Anything else is an error that says what was
//! asked for and where. Every value is made by at least one byte of the pickle and holds nothing
//! by value, so memory is bounded by the pickle's size; nothing recurses.

use std::collections::{HashMap, HashSet};

use super::stream::Stream;

/// What can be wrong with the pickle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// The pickle ends inside an opcode or without STOP.
    #[error("the pickle ends early, at byte {at}")]
    Truncated {
        /// Where in the pickle.
        at: usize,
    },
    /// An opcode that no weights need.
    #[error("opcode {opcode:#04x} at byte {at} of the pickle is not one that weights need")]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where in the pickle.
        at: usize,
    },
    /// A name that no weights need; Python would run it.
    #[error(
        "the pickle names {module}.{name} at byte {at}: loading it with Python would run code; \
         llq does not"
    )]
    Global {
        /// The Python module.
        module: String,
        /// The name in it.
        name: String,
        /// Where in the pickle.
        at: usize,
    },
    /// An opcode met values it can not work on.
    #[error("{problem} at byte {at} of the pickle")]
    Malformed {
        /// What is wrong.
        problem: &'static str,
        /// Where in the pickle.
        at: usize,
    },
}

/// A number type of `torch.*Storage`, by that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StorageType(pub(super) &'static str);

/// A storage that the pickle mentions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Storage<'a> {
    pub(super) storage_type: StorageType,
    /// The entry's name under `data/`.
    pub(super) key: &'a str,
    pub(super) elements: u64,
}

/// A view into a storage, in elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TensorView<'a> {
    pub(super) storage: Storage<'a>,
    pub(super) offset: u64,
    pub(super) shape: Vec<u64>,
    pub(super) stride: Vec<u64>,
}

/// Reads the named tensors of a state dict. Values that are no tensors are left out.
pub(super) fn named_tensors(pickle: &[u8]) -> Result<Vec<NamedView<'_>>, PickleError> {
    let mut machine = Machine::new(pickle);
    let root = machine.run()?;
    machine.state_dict(root)
}

/// A tensor under its name in the state dict.
pub(super) type NamedView<'a> = (&'a str, TensorView<'a>);

/// Names a pickle may mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    RebuildTensor,
    RebuildParameter,
    RebuildUntyped,
    OrderedDict,
    Storage(StorageType),
    /// A storage of bytes; what numbers they are, its tensor says.
    UntypedStorage,
    Dtype(StorageType),
}

/// The type of a storage that has none.
const UNTYPED: StorageType = StorageType("Untyped");

const GLOBALS: &[(&str, &str, Global)] = &[
    ("torch._utils", "_rebuild_tensor_v2", Global::RebuildTensor),
    ("torch._utils", "_rebuild_tensor_v3", Global::RebuildUntyped),
    ("torch._utils", "_rebuild_parameter", Global::RebuildParameter),
    ("collections", "OrderedDict", Global::OrderedDict),
    ("torch", "FloatStorage", Global::Storage(StorageType("Float"))),
    ("torch", "HalfStorage", Global::Storage(StorageType("Half"))),
    ("torch", "BFloat16Storage", Global::Storage(StorageType("BFloat16"))),
    ("torch", "DoubleStorage", Global::Storage(StorageType("Double"))),
    ("torch", "LongStorage", Global::Storage(StorageType("Long"))),
    ("torch", "IntStorage", Global::Storage(StorageType("Int"))),
    ("torch", "ShortStorage", Global::Storage(StorageType("Short"))),
    ("torch", "CharStorage", Global::Storage(StorageType("Char"))),
    ("torch", "ByteStorage", Global::Storage(StorageType("Byte"))),
    ("torch", "BoolStorage", Global::Storage(StorageType("Bool"))),
    ("torch", "ComplexFloatStorage", Global::Storage(StorageType("ComplexFloat"))),
    ("torch.storage", "UntypedStorage", Global::UntypedStorage),
    ("torch", "float8_e4m3fn", Global::Dtype(StorageType("Float8_e4m3fn"))),
    ("torch", "float8_e5m2", Global::Dtype(StorageType("Float8_e5m2"))),
];

/// A place in [`Machine::values`].
type Handle = usize;

#[derive(Clone, Debug)]
enum Value<'a> {
    /// None, bytes, floats: allowed, of no use.
    Opaque,
    Bool,
    Integer(i64),
    Text(&'a str),
    Tuple(Vec<Handle>),
    List(Vec<Handle>),
    Dict(Vec<(Handle, Handle)>),
    Global(Global),
    /// In boxes, as are tensors: a pickle has few, and a place for every byte.
    Storage(Box<Storage<'a>>),
    Tensor(Box<TensorView<'a>>),
}

struct Machine<'a> {
    stream: Stream<'a>,
    /// Where the current opcode is.
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Handle>,
    /// Stack heights at each MARK.
    marks: Vec<usize>,
    memo: HashMap<u32, Handle>,
}

const MAX_PROTOCOL: u8 = 5;

impl<'a> Machine<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        Machine {
            stream: Stream::new(pickle),
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        }
    }

    /// Runs to STOP, which must be the last byte.
    fn run(&mut self) -> Result<Handle, PickleError> {
        loop {
            self.at = self.stream.position();
            let opcode = self.stream.u8()?;
            if opcode == b'.' {
                let root = self.pop()?;
                let clean = self.stack.is_empty() && self.marks.is_empty();
                if !clean || !self.stream.is_at_end() {
                    return Err(self.malformed("STOP leaves something behind"));
                }
                return Ok(root);
            }
            self.step(opcode)?;
        }
    }

    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            b'N' => self.push(Value::Opaque),
            0x88 | 0x89 => self.push(Value::Bool),
            b'K' | b'M' | b'J' | 0x8a => self.integer(opcode)?,
            b'G' => {
                self.stream.take(8)?;
                self.push(Value::Opaque);
            }
            b'X' | 0x8c | 0x8d => self.text(opcode)?,
            b'B' | b'C' | 0x8e => self.bytes(opcode)?,
            b'c' | 0x93 => self.global(opcode)?,
            b'}' => self.push(Value::Dict(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b')' => self.push(Value::Tuple(Vec::new())),
            b'(' => self.marks.push(self.stack.len()),
            b't' | 0x85..=0x87 => self.tuple(opcode)?,
            b'a' | b'e' => self.append(opcode)?,
            b's' | b'u' => self.set_items(opcode)?,
            b'q' | b'r' | 0x94 => self.memoize(opcode)?,
            b'h' | b'j' => self.recall(opcode)?,
            b'Q' => self.persistent_id()?,
            b'R' => self.reduce()?,
            b'b' => self.build()?,
            0x80 => self.protocol()?,
            // FRAME: how far to read ahead.
            0x95 => drop(self.stream.u64()?),
            opcode => return Err(PickleError::Opcode { opcode, at: self.at }),
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<(), PickleError> {
        match self.stream.u8()? {
            0..=MAX_PROTOCOL => Ok(()),
            _ => Err(self.malformed("unknown pickle protocol")),
        }
    }

    fn integer(&mut self, opcode: u8) -> Result<(), PickleError> {
        let value = match opcode {
            b'K' => self.stream.u8()?.into(),
            b'M' => self.stream.u16()?.into(),
            b'J' => i64::from(self.stream.u32()? as i32),
            _ => self.long()?,
        };
        self.push(Value::Integer(value));
        Ok(())
    }

    /// LONG1: little-endian two's complement of as many bytes as it says.
    fn long(&mut self) -> Result<i64, PickleError> {
        let bytes = usize::from(self.stream.u8()?);
        let digits = self.stream.take(bytes)?;
        if bytes > 8 {
            return Err(self.malformed("integer of more than 64 bits"));
        }
        let sign = if digits.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..bytes].copy_from_slice(digits);
        Ok(i64::from_le_bytes(wide))
    }

    fn text(&mut self, opcode: u8) -> Result<(), PickleError> {
        let bytes = match opcode {
            b'X' => u64::from(self.stream.u32()?),
            0x8c => self.stream.u8()?.into(),
            _ => self.stream.u64()?,
        };
        let text = self.stream.take_u64(bytes)?;
        let text = str::from_utf8(text).map_err(|_| self.malformed("text that is not UTF-8"))?;
        self.push(Value::Text(text));
        Ok(())
    }

    fn bytes(&mut self, opcode: u8) -> Result<(), PickleError> {
        let bytes = match opcode {
            b'B' => u64::from(self.stream.u32()?),
            b'C' => self.stream.u8()?.into(),
            _ => self.stream.u64()?,
        };
        self.stream.take_u64(bytes)?;
        self.push(Value::Opaque);
        Ok(())
    }

    /// GLOBAL has module and name as lines, STACK_GLOBAL has them on the stack.
    fn global(&mut self, opcode: u8) -> Result<(), PickleError> {
        let (module, name) = if opcode == b'c' {
            (self.stream.line()?, self.stream.line()?)
        } else {
            let name = self.pop_text()?;
            (self.pop_text()?, name)
        };
        let known = GLOBALS.iter().find(|&&(m, n, _)| (m, n) == (module, name));
        let Some(&(_, _, global)) = known else {
            let (module, name) = (module.to_owned(), name.to_owned());
            return Err(PickleError::Global { module, name, at: self.at });
        };
        self.push(Value::Global(global));
        Ok(())
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            b't' => self.pop_to_mark()?,
            _ => {
                let count = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(count).filter(|&s| s >= self.floor());
                let start = start.ok_or_else(|| self.malformed("stack underflow"))?;
                self.stack.split_off(start)
            }
        };
        self.push(Value::Tuple(items));
        Ok(())
    }

    fn append(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
        let top = self.top()?;
        match &mut self.values[top] {
            Value::List(list) => list.extend(items),
            _ => return Err(self.malformed("APPEND to what is no list")),
        }
        Ok(())
    }

    fn set_items(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = if opcode == b's' {
            let value = self.pop()?;
            vec![self.pop()?, value]
        } else {
            self.pop_to_mark()?
        };
        let (pairs, rest) = items.as_chunks::<2>();
        let top = self.top()?;
        match &mut self.values[top] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|&[k, v]| (k, v))),
            Value::Dict(_) => return Err(self.malformed("SETITEMS with a key without value")),
            _ => return Err(self.malformed("SETITEM on what is no dict")),
        }
        Ok(())
    }

    fn memoize(&mut self, opcode: u8) -> Result<(), PickleError> {
        let key = match opcode {
            b'q' => self.stream.u8()?.into(),
            b'r' => self.stream.u32()?,
            _ => self.memo.len() as u32,
        };
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), PickleError> {
        let key = if opcode == b'h' { self.stream.u8()?.into() } else { self.stream.u32()? };
        let found = self.memo.get(&key).copied();
        self.stack.push(found.ok_or_else(|| self.malformed("reference to an unset memo entry"))?);
        Ok(())
    }

    /// `('storage', type, key, location, elements)`.
    fn persistent_id(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let Value::Tuple(parts) = &self.values[id] else {
            return Err(self.malformed("persistent id that is no tuple"));
        };
        let parts: Vec<&Value<'_>> = parts.iter().map(|&part| &self.values[part]).collect();
        let [
            Value::Text("storage"),
            Value::Global(storage_type),
            Value::Text(key),
            Value::Text(_location),
            Value::Integer(elements),
        ] = parts[..]
        else {
            return Err(self.malformed("persistent id that is no storage"));
        };
        let storage_type = match storage_type {
            Global::Storage(storage_type) => *storage_type,
            Global::UntypedStorage => UNTYPED,
            _ => return Err(self.malformed("persistent id that is no storage")),
        };
        let elements = u64::try_from(*elements)
            .map_err(|_| self.malformed("storage with a negative number of elements"))?;
        let storage = Storage { storage_type, key, elements };
        self.push(Value::Storage(Box::new(storage)));
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), PickleError> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err(self.malformed("REDUCE with arguments that are no tuple"));
        };
        let result = match &self.values[callee] {
            Value::Global(Global::OrderedDict) if arguments.is_empty() => Value::Dict(Vec::new()),
            Value::Global(Global::RebuildTensor) => Value::Tensor(self.tensor(arguments)?.into()),
            Value::Global(Global::RebuildUntyped) => {
                Value::Tensor(self.untyped_tensor(arguments)?.into())
            }
            Value::Global(Global::RebuildParameter) => self.parameter(arguments)?,
            _ => return Err(self.malformed("REDUCE of what can not be called so")),
        };
        self.push(result);
        Ok(())
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks, …)`.
    fn tensor(&self, arguments: &[Handle]) -> Result<TensorView<'a>, PickleError> {
        let [storage, offset, shape, stride, ..] = *arguments else {
            return Err(self.malformed("tensor with too few arguments"));
        };
        let Value::Storage(storage) = &self.values[storage] else {
            return Err(self.malformed("tensor without storage"));
        };
        let (shape, stride) = (self.extents(shape)?, self.extents(stride)?);
        if shape.len() != stride.len() {
            return Err(self.malformed("tensor with more extents than strides or fewer"));
        }
        let offset = self.extent(offset)?;
        Ok(TensorView { storage: **storage, offset, shape, stride })
    }

    /// `_rebuild_tensor_v3(storage, offset, shape, stride, requires_grad, hooks, dtype, …)`. The
    /// types that it is for have one byte a number, so that bytes of the storage are elements.
    fn untyped_tensor(&self, arguments: &[Handle]) -> Result<TensorView<'a>, PickleError> {
        let mut view = self.tensor(arguments)?;
        let dtype = arguments.get(6).map(|&dtype| &self.values[dtype]);
        let Some(&Value::Global(Global::Dtype(dtype))) = dtype else {
            return Err(self.malformed("tensor of an untyped storage without a type"));
        };
        if view.storage.storage_type != UNTYPED {
            return Err(self.malformed("tensor with two types"));
        }
        view.storage.storage_type = dtype;
        Ok(view)
    }

    /// `_rebuild_parameter(tensor, requires_grad, hooks)` is its tensor.
    fn parameter(&self, arguments: &[Handle]) -> Result<Value<'a>, PickleError> {
        match arguments.first().map(|&tensor| &self.values[tensor]) {
            Some(Value::Tensor(tensor)) => Ok(Value::Tensor(tensor.clone())),
            _ => Err(self.malformed("parameter without tensor")),
        }
    }

    fn extents(&self, tuple: Handle) -> Result<Vec<u64>, PickleError> {
        const MAX_RANK: usize = 8;
        match &self.values[tuple] {
            Value::Tuple(items) if items.len() <= MAX_RANK => {
                items.iter().map(|&item| self.extent(item)).collect()
            }
            _ => Err(self.malformed("shape or stride that is no tuple of at most 8")),
        }
    }

    fn extent(&self, item: Handle) -> Result<u64, PickleError> {
        match self.values[item] {
            Value::Integer(extent) if extent >= 0 => Ok(extent as u64),
            _ => Err(self.malformed("extent, stride or offset that is no count")),
        }
    }

    /// BUILD hangs attributes on an object: a state dict's `_metadata`, of no use here.
    fn build(&mut self) -> Result<(), PickleError> {
        let state = self.pop()?;
        let object = self.top()?;
        match (&self.values[object], &self.values[state]) {
            (Value::Dict(_), Value::Dict(_)) => Ok(()),
            _ => Err(self.malformed("BUILD of what is no dict")),
        }
    }

    fn state_dict(&self, root: Handle) -> Result<Vec<NamedView<'a>>, PickleError> {
        let Value::Dict(items) = &self.values[root] else {
            return Err(self.malformed("a root that is no dict of tensors,"));
        };
        let items = self.nested_state_dict(items).unwrap_or(items);
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        for &(key, value) in items {
            if let (&Value::Text(name), Value::Tensor(view)) =
                (&self.values[key], &self.values[value])
            {
                if !names.insert(name) {
                    return Err(self.malformed("a state dict that names a tensor twice,"));
                }
                tensors.push((name, TensorView::clone(view)));
            }
        }
        Ok(tensors)
    }

    /// The state dict in a checkpoint of a training that has it beside its own state: a dict without
    /// tensors.
    fn nested_state_dict(&self, root: &[(Handle, Handle)]) -> Option<&[(Handle, Handle)]> {
        const KEYS: [&str; 3] = ["state_dict", "model", "module"];
        if root.iter().any(|&(_, value)| matches!(self.values[value], Value::Tensor(_))) {
            return None;
        }
        let found = |&&(key, _): &&(Handle, Handle)| matches!(self.values[key], Value::Text(key) if KEYS.contains(&key));
        match &self.values[root.iter().find(found)?.1] {
            Value::Dict(items) => Some(items),
            _ => None,
        }
    }

    fn push(&mut self, value: Value<'a>) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// The stack height that the innermost MARK protects.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Handle, PickleError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&self) -> Result<Handle, PickleError> {
        match self.stack.last() {
            Some(&top) if self.stack.len() > self.floor() => Ok(top),
            _ => Err(self.malformed("stack underflow")),
        }
    }

    fn pop_text(&mut self) -> Result<&'a str, PickleError> {
        let text = self.pop()?;
        match self.values[text] {
            Value::Text(text) => Ok(text),
            _ => Err(self.malformed("name that is no text")),
        }
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Handle>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("missing MARK"))?;
        Ok(self.stack.split_off(mark))
    }

    fn malformed(&self, problem: &'static str) -> PickleError {
        PickleError::Malformed { problem, at: self.at }
    }
}
