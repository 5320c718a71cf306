//! Prints what a GGUF file says of itself, and its largest tensor.
//!
//! `cargo run -p llq-gguf --example read_model -- model.gguf`

#![allow(clippy::print_stdout)] // that is what it is for

use std::{error::Error, path::Path};

use llq_gguf::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which file?")?;
    let model = Model::open(Path::new(&path))?;
    let metadata = model.metadata();
    println!("architecture: {}", metadata.string("general.architecture")?);
    println!("keys: {}, tensors: {}", metadata.len(), model.tensors().len());
    if let Some(tensor) = model.tensors().iter().max_by_key(|tensor| tensor.bytes) {
        // Nothing is copied: these are the mapped bytes of the file.
        let data: &[u8] = model.data(tensor);
        println!(
            "largest: {}, {} × {} weights in {}, {} bytes",
            tensor.name,
            tensor.rows(),
            tensor.cols(),
            tensor.tensor_type,
            data.len()
        );
    }
    Ok(())
}
