//! Range requests.

use std::{
    env,
    io::{self, Read, Write},
    time::Duration,
};

use anyhow::Context;
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, header},
    tls::{RootCerts, TlsConfig},
};

use crate::failure::Refusal;

/// How long a silent server is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Asks servers for parts of files. A token in `HF_TOKEN` goes to the Hugging Face hub alone, and
/// not to where that redirects to.
pub(super) struct RangeClient {
    agent: Agent,
    hub_token: Option<String>,
}

/// A part of a file, on its way.
pub(super) struct Range {
    /// What the server says of the whole file.
    pub(super) file_bytes: u64,
    url: String,
    bytes: u64,
    body: Body,
}

impl RangeClient {
    pub(super) fn new() -> RangeClient {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .user_agent(concat!("llq/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .build()
            .new_agent();
        RangeClient {
            agent,
            hub_token: env::var("HF_TOKEN").ok().filter(|token| !token.is_empty()),
        }
    }

    /// Asks for `bytes` bytes from `start` on, or as many as the file has from there.
    pub(super) fn range(&self, url: &str, start: u64, bytes: u64) -> anyhow::Result<Range> {
        let last = start.saturating_add(bytes).saturating_sub(1);
        let mut request =
            self.agent.get(url).header(header::RANGE, format!("bytes={start}-{last}"));
        if let Some(token) = self.hub_token.as_ref().filter(|_| is_hub(url)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = request.call().with_context(|| format!("cannot fetch {url}"))?;
        check_status(url, response.status())?;
        let (first, file_bytes) =
            content_range(&response).filter(|&(first, _)| first == start).ok_or_else(|| {
                Refusal::new(format!(
                    "{url}: the server does not say which part of the file it sends"
                ))
            })?;
        let bytes = bytes.min(file_bytes.saturating_sub(first));
        Ok(Range { file_bytes, url: url.to_owned(), bytes, body: response.into_body() })
    }
}

fn is_hub(url: &str) -> bool {
    url.starts_with("https://huggingface.co/")
}

fn check_status(url: &str, status: StatusCode) -> Result<(), Refusal> {
    match status {
        StatusCode::PARTIAL_CONTENT => Ok(()),
        StatusCode::OK => Err(Refusal::new(format!(
            "{url}: the server sends whole files only, not the part that was asked for"
        ))
        .hint("fetch the file and inspect it here")),
        StatusCode::RANGE_NOT_SATISFIABLE => {
            Err(Refusal::new(format!("{url}: the file is empty or shorter than before")))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_hub(url) => {
            Err(Refusal::new(format!("{url}: the server says {status}"))
                .hint("the model may be gated: put a token that may read it into HF_TOKEN"))
        }
        status => Err(Refusal::new(format!("{url}: the server says {status}"))),
    }
}

/// Where the part starts, and how long the whole file is: `bytes 0-1023/146515`.
fn content_range(response: &Response<Body>) -> Option<(u64, u64)> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, whole) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, whole.parse().ok()?))
}

impl Range {
    /// Copies all of it, and no byte that was not asked for; `progress` gets the size of each piece.
    pub(super) fn copy_to(
        self,
        out: &mut impl Write,
        progress: impl Fn(u64),
    ) -> anyhow::Result<()> {
        let Range { url, bytes, body, .. } = self;
        let mut piece = vec![0; 64 << 10];
        let mut rest = body.into_reader().take(bytes);
        let mut left = bytes;
        while left > 0 {
            let read = match rest.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.with_context(|| format!("cannot fetch {url}"))?,
            };
            if read == 0 {
                let message = format!("{url}: the server stopped {left} bytes too early");
                return Err(Refusal::new(message).into());
            }
            out.write_all(&piece[..read]).context("cannot write to the temporary folder")?;
            left -= read as u64;
            progress(read as u64);
        }
        Ok(())
    }
}
