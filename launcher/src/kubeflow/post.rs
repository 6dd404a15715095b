//! A POST with a time limit: over HTTP by ourselves, over HTTPS by the program `curl`.
//!
//! No TLS library is among the dependencies, and none shall be for one message in five seconds.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// The longest that a connection may take, and then an answer.
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// No first line of an answer is longer.
const LONGEST_LINE: usize = 1024;

/// A server, and what it is told of us.
#[derive(Debug)]
pub struct Endpoint {
    url: String,
    /// Where to connect over HTTP; HTTPS is left to `curl`.
    plain: Option<Plain>,
    token: Option<PathBuf>,
    certificate: Option<PathBuf>,
}

/// The parts of `http://host:port/path`.
#[derive(Debug, PartialEq, Eq)]
struct Plain {
    /// With its port, if it was given.
    authority: String,
    host: String,
    port: u16,
    path: String,
}

impl Plain {
    fn parse(rest: &str) -> Option<Self> {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            // An address of IPv6 stands in brackets.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (authority, 80),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty() && !host.contains('@')).then(|| Self {
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            path: if path.is_empty() { "/".to_owned() } else { path.to_owned() },
        })
    }
}

impl Endpoint {
    /// The server at `url`, with the files of a token and a certificate.
    ///
    /// # Errors
    /// An address that is not of HTTP or HTTPS.
    pub fn new(
        url: &str,
        token: Option<PathBuf>,
        certificate: Option<PathBuf>,
    ) -> Result<Self, String> {
        let is_sound = !url.contains(|letter: char| letter.is_control() || letter.is_whitespace());
        let plain = url.strip_prefix("http://").and_then(Plain::parse);
        if !is_sound || (plain.is_none() && !url.starts_with("https://")) {
            return Err(format!("{url:?} is no address of HTTP or HTTPS"));
        }
        Ok(Self { url: url.to_owned(), plain, token, certificate })
    }

    /// The server's address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Posts JSON, and waits for an answer at most twice [`TIMEOUT`].
    pub fn post(&self, json: &str) -> Result<(), String> {
        // The token is replaced from time to time.
        let token = self.token.as_deref().map(read_token).transpose()?;
        match &self.plain {
            Some(plain) => post_plain(plain, token.as_deref(), json),
            None => self.post_by_curl(token.as_deref(), json),
        }
    }

    /// All is handed over by a pipe: anyone on the host can see the arguments of a program.
    fn post_by_curl(&self, token: Option<&str>, json: &str) -> Result<(), String> {
        let mut config = format!("url = {}\ndata-raw = {}\n", quoted(&self.url), quoted(json));
        let headers = ["Content-Type: application/json".to_owned()];
        let headers =
            headers.into_iter().chain(token.map(|token| format!("Authorization: Bearer {token}")));
        let certificate = self.certificate.as_ref().map(|path| path.display().to_string());
        let lines =
            headers.map(|text| ("header", text)).chain(certificate.map(|path| ("cacert", path)));
        for (key, text) in lines {
            // Writing to a string cannot fail.
            let _ = writeln!(config, "{key} = {}", quoted(&text));
        }
        let _ = writeln!(
            config,
            "silent\nshow-error\nfail\noutput = \"/dev/null\"\nconnect-timeout = {0}\nmax-time = {1}",
            TIMEOUT.as_secs(),
            2 * TIMEOUT.as_secs()
        );
        // Without the user's own settings.
        let mut curl = Command::new("curl")
            .args(["--disable", "--config", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|why| format!("HTTPS needs the program curl: {why}"))?;
        if let Some(mut stdin) = curl.stdin.take() {
            stdin.write_all(config.as_bytes()).map_err(|why| format!("curl: {why}"))?;
        }
        let output = curl.wait_with_output().map_err(|why| format!("curl: {why}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(said.lines().next().unwrap_or("curl failed").to_owned())
    }
}

/// As `curl` reads a text in its configuration.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn read_token(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|why| format!("cannot read the token in {}: {why}", path.display()))?;
    let token = text.trim();
    // It becomes a line of a header.
    if token.is_empty() || token.contains(|letter: char| !letter.is_ascii_graphic()) {
        return Err(format!("{} holds no token", path.display()));
    }
    Ok(token.to_owned())
}

fn post_plain(server: &Plain, token: Option<&str>, json: &str) -> Result<(), String> {
    let Plain { authority, host, port, path } = server;
    let addresses =
        (host.as_str(), *port).to_socket_addrs().map_err(|why| format!("{host}: {why}"))?;
    let end = Instant::now() + TIMEOUT;
    let mut failure = format!("{host} has no address");
    let connected = addresses.into_iter().find_map(|address| {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let tried = TcpStream::connect_timeout(&address, left);
        tried.inspect_err(|why| failure = format!("{address}: {why}")).ok()
    });
    let mut stream = connected.ok_or(failure)?;
    let bearer =
        token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\n{bearer}Content-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{json}",
        json.len()
    );
    stream
        .set_write_timeout(Some(TIMEOUT))
        .and_then(|()| stream.write_all(request.as_bytes()))
        .map_err(|why| format!("cannot send: {why}"))?;
    let line = first_line(&mut stream).map_err(|why| format!("no answer: {why}"))?;
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    if code.is_some_and(|code| code.starts_with('2')) {
        Ok(())
    } else {
        Err(format!("the answer is {line:?}"))
    }
}

/// The first line of an answer, for which the server has [`TIMEOUT`], however slowly it writes.
fn first_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let end = Instant::now() + TIMEOUT;
    let mut line = Vec::new();
    let mut buffer = [0; 256];
    while line.len() < LONGEST_LINE && !line.contains(&b'\n') {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer)? {
            0 => break,
            read => line.extend_from_slice(&buffer[..read]),
        }
    }
    let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{net::TcpListener, thread};

    fn parse(rest: &str) -> Option<(String, u16, String)> {
        Plain::parse(rest).map(|plain| (plain.host, plain.port, plain.path))
    }

    #[test]
    fn an_address_is_read() {
        assert_eq!(parse("a.b:8082/x/y"), Some(("a.b".into(), 8082, "/x/y".into())));
        assert_eq!(parse("a"), Some(("a".into(), 80, "/".into())));
        assert_eq!(parse("[::1]:8/x"), Some(("::1".into(), 8, "/x".into())));
        assert_eq!(parse("[::1]/x"), Some(("::1".into(), 80, "/x".into())));
        for wrong in ["", "/x", ":80/", "a:b/", "a:99999/", "u@a/"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        for wrong in ["", "ftp://a/", "http://", "http://a/\r\nX: y", "http://a b/", "a"] {
            assert!(Endpoint::new(wrong, None, None).is_err(), "{wrong:?}");
        }
    }

    /// Takes one connection, returns what came, and answers.
    fn server(answer: &'static str) -> (Endpoint, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/status", listener.local_addr().unwrap());
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        std::fs::write(&token, "secret\n").unwrap();
        let endpoint = Endpoint::new(&url, Some(token), None).unwrap();
        let thread = thread::spawn(move || {
            let _folder = folder;
            let (mut stream, _) = listener.accept().unwrap();
            let mut got = Vec::new();
            let mut buffer = [0; 512];
            while !got.ends_with(b"{}") {
                let read = stream.read(&mut buffer).unwrap();
                got.extend_from_slice(&buffer[..read]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(got).unwrap()
        });
        (endpoint, thread)
    }

    #[test]
    fn a_server_gets_the_token_and_the_body_and_says_whether_it_took_them() {
        let (endpoint, thread) = server("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(endpoint.post("{}"), Ok(()));
        let got = thread.join().unwrap();
        assert!(got.starts_with("POST /status HTTP/1.1\r\nHost: 127.0.0.1:"), "{got}");
        assert!(got.contains("\r\nAuthorization: Bearer secret\r\n"), "{got}");
        assert!(got.ends_with("\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"), "{got}");
        for answer in ["HTTP/1.1 403 Forbidden\r\n\r\n", "", "nonsense"] {
            let (endpoint, thread) = server(answer);
            assert!(endpoint.post("{}").is_err(), "{answer:?}");
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_token_cannot_add_a_header() {
        let folder = tempfile::tempdir().unwrap();
        let token = folder.path().join("token");
        for (text, is_sound) in
            [("a.b-c_d\n", true), ("a\r\nX: y", false), ("", false), ("ä", false)]
        {
            std::fs::write(&token, text).unwrap();
            assert_eq!(read_token(&token).is_ok(), is_sound, "{text:?}");
        }
        assert!(read_token(Path::new("/no/such/token")).is_err());
    }

    #[test]
    fn a_text_for_curl_stays_one_text() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}
