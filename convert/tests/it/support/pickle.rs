//! Just enough pickle and ZIP to write a `.pth`, sound or hostile.

/// A pickle of protocol 2 whose root is `{name: value}`.
pub(crate) fn state_dict(name: &str, value: &[u8]) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    pickle.extend(text(name));
    pickle.extend(value);
    pickle.extend(b"u.");
    pickle
}

/// A BF16 tensor over storage "0".
pub(crate) fn tensor(offset: i32, shape: &[i32], stride: &[i32], elements: i32) -> Vec<u8> {
    tensor_of("0", offset, shape, stride, elements)
}

/// A BF16 tensor over the storage of that key.
pub(crate) fn tensor_of(
    key: &str,
    offset: i32,
    shape: &[i32],
    stride: &[i32],
    elements: i32,
) -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    pickle.extend(text("storage"));
    pickle.extend(b"ctorch\nBFloat16Storage\n");
    pickle.extend(text(key));
    pickle.extend(text("cpu"));
    pickle.extend(int(elements));
    pickle.extend(b"tQ");
    pickle.extend(int(offset));
    for extents in [shape, stride] {
        pickle.push(b'(');
        extents.iter().for_each(|&extent| pickle.extend(int(extent)));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    pickle
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut pickle = vec![b'X'];
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
    pickle
}

pub(crate) fn int(value: i32) -> Vec<u8> {
    let mut pickle = vec![b'J'];
    pickle.extend(value.to_le_bytes());
    pickle
}

/// The archive of that pickle and one storage.
pub(crate) fn archive(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    zip(&[("model/data.pkl", pickle), ("model/data/0", storage)])
}

/// A ZIP archive of stored entries.
pub(crate) fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut directory = Vec::new();
    for &(name, data) in entries {
        let start = file.len() as u32;
        file.extend(b"PK\x03\x04");
        file.extend(common_fields(name, data));
        file.extend(name.bytes());
        file.extend(data);
        directory.extend(b"PK\x01\x02\0\0");
        directory.extend(common_fields(name, data));
        // Comment, disk, attributes.
        directory.extend([0; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.bytes());
    }
    let start = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend([entries.len() as u8, 0, entries.len() as u8, 0]);
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0; 2]);
    file
}

/// Version, flags, method, time, date, CRC, sizes and lengths: the same in both headers.
fn common_fields(name: &str, data: &[u8]) -> Vec<u8> {
    let mut fields = vec![0; 14];
    fields.extend((data.len() as u32).to_le_bytes());
    fields.extend((data.len() as u32).to_le_bytes());
    fields.extend((name.len() as u16).to_le_bytes());
    fields.extend([0; 2]);
    fields
}

/// An FP8 tensor over the storage of that key, as PyTorch writes types without a storage class.
pub(crate) fn fp8_tensor(key: &str, shape: [i32; 2]) -> Vec<u8> {
    let mut pickle = b"ctorch._utils\n_rebuild_tensor_v3\n((".to_vec();
    pickle.extend(text("storage"));
    pickle.extend(b"ctorch.storage\nUntypedStorage\n");
    pickle.extend(text(key));
    pickle.extend(text("cpu"));
    pickle.extend(int(shape[0] * shape[1]));
    pickle.extend(b"tQ");
    pickle.extend(int(0));
    for extents in [shape, [shape[1], 1]] {
        pickle.push(b'(');
        extents.iter().for_each(|&extent| pickle.extend(int(extent)));
        pickle.push(b't');
    }
    pickle.extend(b"\x89ccollections\nOrderedDict\n)Rctorch\nfloat8_e4m3fn\ntR");
    pickle
}

/// An F32 vector over the storage of that key.
pub(crate) fn f32_vector(key: &str, len: i32) -> Vec<u8> {
    let tensor = tensor_of(key, 0, &[len], &[1], len);
    let (bf16, f32) = (b"ctorch\nBFloat16Storage\n", b"ctorch\nFloatStorage\n");
    let at = tensor.windows(bf16.len()).position(|part| part == bf16).unwrap();
    [&tensor[..at], f32, &tensor[at + bf16.len()..]].concat()
}

/// A `.pth` of tensors with a storage each, by the pickle that describes them for a key.
pub(crate) fn described<'a>(
    tensors: impl Iterator<Item = (&'a str, Box<dyn Fn(&str) -> Vec<u8> + 'a>, &'a [u8])>,
) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut storages = Vec::new();
    for (index, (name, describe, bytes)) in tensors.enumerate() {
        pickle.extend(text(name));
        pickle.extend(describe(&index.to_string()));
        storages.push((format!("model/data/{index}"), bytes));
    }
    pickle.extend(b"u.");
    let mut entries = vec![("model/data.pkl", &pickle[..])];
    entries.extend(storages.iter().map(|(name, bytes)| (name.as_str(), *bytes)));
    zip(&entries)
}
