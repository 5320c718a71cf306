//! How an evaluation tells how far it is.

/// Hears of every finished window, in the order of the text.
pub trait Progress: Sync {
    /// `windows` windows of `context` tokens are going to be evaluated.
    fn start(&self, windows: usize, context: usize);

    /// Another window is done.
    fn window(&self, running: Running);
}

/// No one listens.
impl Progress for () {
    fn start(&self, _windows: usize, _context: usize) {}
    fn window(&self, _running: Running) {}
}

/// Where an evaluation stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Running {
    /// Windows finished so far.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// Perplexity over the windows finished so far, where something is predicted.
    pub perplexity: Option<f64>,
}
