use llq_quant::{FORMATS, Matrix, Mode, Vector, gemv_with, kernels};
fn main() {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let big: Vec<u64> = (0..(64u64 << 20)).collect();
    let mut best = f64::MAX;
    for _ in 0..5 { let t = cpu(); let s: u64 = big.iter().fold(0, |a, b| a ^ b); std::hint::black_box(s); best = best.min(cpu() - t); }
    println!("read {:.1} GB/s", big.len() as f64 * 8.0 / best / 1e9);
    for kernels in kernels::available().rev() {
        for f in FORMATS {
            if !filters.is_empty() && !filters.iter().any(|x| x.eq_ignore_ascii_case(f.name())) { continue; }
            let cols = 14336; let rows = 4096;
            let rb = f.tensor_type.row_bytes(cols as u64).unwrap() as usize;
            let v: Vec<f32> = (0..cols).map(|i| ((i * 7919 % 1000) as f32 - 500.0) / 500.0).collect();
            let mut row = vec![0; rb]; f.encode_row(&v, None, &mut row).unwrap();
            let bytes = row.repeat(rows);
            let w = Matrix::new(f.tensor_type, rows, cols, &bytes).unwrap();
            let x = Vector::new(Mode::Fast, &v);
            let mut out = vec![0.0; rows];
            let mut best = f64::MAX;
            let n = if kernels.isa().name() == "scalar" { 1 } else { 7 };
            for _ in 0..n { let t = cpu(); gemv_with(kernels, &w, &x, &mut out); best = best.min(cpu() - t); }
            println!("{} {:6} {:6.1} GB/s {:6.2} Gw/s", kernels.isa(), f.name(), bytes.len() as f64 / best / 1e9, (rows * cols) as f64 / best / 1e9);
        }
    }
}

fn cpu() -> f64 {
    std::thread::yield_now();
    std::fs::read_to_string("/proc/thread-self/schedstat").unwrap().split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}
