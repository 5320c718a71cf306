//! candle's `QTensor::quantize` and `QMatMul::forward` on one matrix, one JSON object per format.
//!
//! `llq-peer-candle ROWS COLS TOKENS ROUNDS [FORMAT]…`, threads by `RAYON_NUM_THREADS`. The product
//! is compared with that of the dequantized weights before it is timed.

use std::{env, sync::Arc, time::Instant};

use candle_core::{
    Device, Module, Result, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use serde_json::json;

const FORMATS: [(&str, GgmlDType); 10] = [
    ("Q8_0", GgmlDType::Q8_0),
    ("Q6_K", GgmlDType::Q6K),
    ("Q5_K", GgmlDType::Q5K),
    ("Q4_K", GgmlDType::Q4K),
    ("Q3_K", GgmlDType::Q3K),
    ("Q2_K", GgmlDType::Q2K),
    ("Q5_1", GgmlDType::Q5_1),
    ("Q5_0", GgmlDType::Q5_0),
    ("Q4_1", GgmlDType::Q4_1),
    ("Q4_0", GgmlDType::Q4_0),
];

/// Activations have 8 bits in these products: their error is a few thousandths of the outputs'.
const TOLERANCE: f32 = 0.02;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |index: usize| -> usize {
        let argument = arguments.get(index).and_then(|text| text.parse().ok());
        argument.expect("ROWS COLS TOKENS ROUNDS [FORMAT]…")
    };
    let (rows, cols, tokens, rounds) = (number(0), number(1), number(2), number(3));
    let wanted = &arguments[4..];
    let device = Device::Cpu;
    let weights = Tensor::randn(0f32, 0.02, (rows, cols), &device)?;
    let x = Tensor::randn(0f32, 1.0, (tokens, cols), &device)?;
    for (name, format) in FORMATS {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| wanted == name) {
            continue;
        }
        let quantize = times(rounds, || QTensor::quantize(&weights, format))?;
        let quantized = Arc::new(QTensor::quantize(&weights, format)?);
        let product = QMatMul::from_arc(quantized.clone())?;
        let expected = x.matmul(&quantized.dequantize(&device)?.t()?)?;
        let error = distance(&product.forward(&x)?, &expected)?;
        assert!(error < TOLERANCE, "{name}: products are off by {error} of their size");
        let multiply = times(rounds, || product.forward(&x))?;
        println!(
            "{}",
            json!({ "format": name, "error": error, "quantize": quantize, "multiply": multiply })
        );
    }
    Ok(())
}

/// The seconds of each run.
fn times<T>(rounds: usize, run: impl Fn() -> Result<T>) -> Result<Vec<f64>> {
    let seconds = (0..rounds).map(|_| {
        let start = Instant::now();
        run()?;
        Ok(start.elapsed().as_secs_f64())
    });
    seconds.collect()
}

/// The length of the difference over the length of `expected`.
fn distance(found: &Tensor, expected: &Tensor) -> Result<f32> {
    let squares = |tensor: &Tensor| tensor.sqr()?.sum_all()?.to_scalar::<f32>();
    Ok((squares(&(found - expected)?)? / squares(expected)?).sqrt())
}
