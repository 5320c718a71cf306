#![allow(clippy::unwrap_used)] // helpers of tests

use llq_gguf::{Model, TensorType};
use rayon::ThreadPoolBuilder;

use super::*;
use crate::{
    Against, Corpus, Options, evaluate,
    head::Logits,
    support::{corpus, llama_3::tiny_llama_3, tiny_llama},
    windows::Windows,
};

fn fixtures() -> impl Iterator<Item = Model> {
    [tiny_llama(TensorType::F16), tiny_llama_3(TensorType::Q5_K)].into_iter().flatten()
}

/// Sequences that start at different times, so that a step has tokens of different positions.
#[test]
fn a_token_at_a_time_gives_what_whole_windows_give() {
    const CONTEXT: usize = 150;
    for model in fixtures() {
        let Some(text) = corpus(&model, "sampled") else { return };
        let llama = Llama::load(&model).unwrap();
        let body = Body::new(&llama, CONTEXT, Mode::Exact);
        let mut work = body.workspace();
        let options = Options { context: CONTEXT, chunks: Some(3), ..Options::default() };
        let mut windows = Vec::new();
        Windows::plan(&text, &options)
            .unwrap()
            .for_each_pass(&(), |_, pass| {
                windows.extend(pass.to_vec());
                Ok(vec![None; pass.len()])
            })
            .unwrap();
        let whole = body.observe(&windows, &mut work, &mut ());

        let sizes = llama.hyperparameters();
        let width = sizes.embedding_length;
        let mut caches: Vec<Cache> = windows.iter().map(|_| Cache::new(sizes, CONTEXT)).collect();
        for step in 0..CONTEXT + 40 {
            let at = |window: usize| step.checked_sub(20 * window).filter(|&at| at < CONTEXT);
            let (running, mut step_caches): (Vec<usize>, Vec<&mut Cache>) =
                caches.iter_mut().enumerate().filter(|(window, _)| at(*window).is_some()).unzip();
            let tokens: Vec<u32> = (running.iter())
                .map(|&window| windows[window].tokens()[at(window).unwrap()])
                .collect();
            let hidden = body.step(&tokens, &mut step_caches, &mut work);
            let logits = logits(&llama, &hidden);
            for ((row, logits), &window) in hidden.chunks_exact(width).zip(logits).zip(&running) {
                let first = (window * CONTEXT + at(window).unwrap()) * width;
                let expected = &whole[first..first + width];
                assert!(row == expected, "step {step}, window {window}");
                assert!(logits == self::logits(&llama, expected)[0]);
            }
        }
    }
}

fn logits(llama: &Llama<'_>, hidden: &[f32]) -> Vec<Vec<f32>> {
    let logits = Logits::of(Prediction { head: llama.head(), hidden }, Mode::Exact);
    let tokens = hidden.len() / llama.hyperparameters().embedding_length;
    (0..tokens).map(|token| logits.all(token).copied().collect()).collect()
}

#[test]
fn the_text_depends_on_the_seed_alone() {
    for model in fixtures() {
        let (llama, tokenizer) = (Llama::load(&model).unwrap(), tokenizer(&model));
        let options =
            Sampling { tokens: 200, seed: 7, context: 21, temperature: 1.2, ..Sampling::default() };
        let on = |threads: usize, slots: u64, options: &Sampling| {
            let own = Cache::bytes(llama.hyperparameters(), options.context).unwrap();
            let options = Sampling { cache_bytes: own * slots, ..options.clone() };
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| sample(&llama, &tokenizer, &options, &()).unwrap())
        };
        let text = on(1, 1, &options);
        let tokens = |text: &[Sequence]| text.iter().map(drawn_tokens).sum::<usize>();
        assert_eq!(tokens(&text), 200);
        assert!(text.iter().all(|sequence| drawn_tokens(sequence) <= 20));
        assert!(text[0].tokens != text[1].tokens);
        for (threads, slots) in [(2, 3), (3, 1000)] {
            assert_eq!(on(threads, slots, &options), text, "{threads} threads, {slots} slots");
        }

        let fewer = on(2, 5, &Sampling { tokens: 90, ..options.clone() });
        let (last, before) = fewer.split_last().unwrap();
        assert_eq!((tokens(&fewer), before), (90, &text[..before.len()]));
        assert!(text[before.len()].tokens.starts_with(&last.tokens));
        assert!(on(2, 5, &Sampling { seed: 8, ..options.clone() })[0] != text[0]);
        assert!(on(2, 5, &Sampling { temperature: 1.0, ..options })[0] != text[0]);
    }
}

/// On text of its own a model is as surprised as it expects to be: what it has lost on each token is
/// its entropy there, in expectation. At another temperature it is not.
#[test]
fn own_text_is_as_likely_as_the_model_expects() {
    const CONTEXT: usize = 64;
    for model in fixtures() {
        let (llama, tokenizer) = (Llama::load(&model).unwrap(), tokenizer(&model));
        let surprise = |temperature| {
            let options = Sampling {
                tokens: 40 * (CONTEXT - 1),
                seed: 11,
                context: CONTEXT,
                temperature,
                ..Sampling::default()
            };
            let text = sample(&llama, &tokenizer, &options, &()).unwrap();
            let start = tokenizer.sequence_start().unwrap();
            let whole = text.iter().filter(|sequence| sequence.tokens.len() == CONTEXT - 1);
            let tokens: Vec<u32> =
                whole.flat_map(|sequence| [&[start], &sequence.tokens[..]].concat()).collect();
            assert!(tokens.len() > 30 * CONTEXT);
            let corpus = Corpus::of(tokens);
            let options = Options { context: CONTEXT, ..Options::default() };
            let report = evaluate(&llama, Against::Nothing, &corpus, &options, &()).unwrap();
            let above = report.perplexity.ln() - entropy(&llama, &corpus, &options);
            above / (report.stderr / report.perplexity)
        };
        let (own, colder) = (surprise(1.0), surprise(0.6));
        assert!(own.abs() < 4.0, "{own} standard errors");
        assert!(colder < -8.0, "{colder} standard errors");
    }
}

/// Mean entropy of what the model predicts at the scored positions, in nats.
fn entropy(llama: &Llama<'_>, corpus: &Corpus, options: &Options) -> f64 {
    let body = Body::new(llama, options.context, Mode::Exact);
    let mut work = body.workspace();
    let (mut total, mut tokens) = (0.0, 0);
    Windows::plan(corpus, options)
        .unwrap()
        .for_each_pass(&(), |_, pass| {
            let hidden = body.hidden(pass, &mut work);
            for logits in logits(llama, &hidden) {
                let logits: Vec<f64> = logits.into_iter().map(f64::from).collect();
                let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
                let mean = logits.iter().map(|logit| logit.exp() * logit).sum::<f64>() / sum;
                total += sum.ln() - mean;
                tokens += 1;
            }
            Ok(vec![None; pass.len()])
        })
        .unwrap();
    total / f64::from(tokens)
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    let Some(model) = tiny_llama(TensorType::Q4_0) else { return };
    let (llama, tokenizer) = (Llama::load(&model).unwrap(), tokenizer(&model));
    let refused =
        |options: Sampling| sample(&llama, &tokenizer, &options, &()).unwrap_err().to_string();
    for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-300, 1e300] {
        let said = refused(Sampling { temperature, ..Sampling::default() });
        assert!(said.starts_with("temperature: "), "{said}");
    }
    let said = refused(Sampling { context: 1, ..Sampling::default() });
    assert!(said.contains("at least 2 tokens"), "{said}");
    let said = refused(Sampling { cache_bytes: 3_145_727, ..Sampling::default() });
    assert!(said.contains("take 3145728 bytes"), "{said}");
    let said = refused(Sampling { context: usize::MAX, ..Sampling::default() });
    assert!(said.contains("more than 2^64"), "{said}");
    let nothing = Sampling { tokens: 0, ..Sampling::default() };
    assert_eq!(sample(&llama, &tokenizer, &nothing, &()).unwrap(), []);
}

fn tokenizer(model: &Model) -> Tokenizer {
    Tokenizer::from_metadata(model.metadata()).unwrap()
}
