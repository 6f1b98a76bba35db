//! Join tokens: with one, a process without a certificate gets its first. Each serves once and expires.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{CaError, files};

/// Why a token does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// There never was one, or it was used, or it was forgotten after its time.
    #[error("the join token is unknown or was used")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
}

/// The tokens that were not used yet, kept in a file by their hashes.
#[derive(Debug)]
pub struct Tokens {
    file: PathBuf,
    tokens: Mutex<BTreeMap<String, Token>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Token {
    identity: String,
    /// Seconds since 1970.
    expires: u64,
}

impl Tokens {
    /// Opens the tokens of a directory.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(directory: &Path) -> Result<Self, CaError> {
        let file = directory.join("tokens.json");
        let tokens = if file.exists() {
            serde_json::from_str(&files::read(&file)?)
                .map_err(|error| CaError::Certificate(format!("{}: {error}", file.display())))?
        } else {
            BTreeMap::new()
        };
        Ok(Self {
            file,
            tokens: Mutex::new(tokens),
        })
    }

    /// The operator's token, which is made when there is none.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn operator(directory: &Path) -> Result<String, CaError> {
        let file = directory.join("operator-token");
        if !file.exists() {
            files::write(&file, &random()?)?;
        }
        Ok(files::read(&file)?.trim().to_owned())
    }

    /// Makes a token for an identity.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(&self, identity: &str, ttl: Duration) -> Result<String, CaError> {
        let token = random()?;
        let mut tokens = self.tokens.lock();
        let now = seconds(SystemTime::now());
        tokens.retain(|_, token| token.expires + 3600 > now);
        let expires = seconds(SystemTime::now() + ttl);
        let identity = identity.to_owned();
        tokens.insert(hash(&token), Token { identity, expires });
        self.write(&tokens)?;
        Ok(token)
    }

    /// Uses a token up. The identity that it is for.
    ///
    /// # Errors
    /// It does not serve.
    pub fn redeem(&self, token: &str, now: SystemTime) -> Result<String, TokenError> {
        let mut tokens = self.tokens.lock();
        let hash = hash(token);
        let found = tokens.get(&hash).ok_or(TokenError::Unknown)?.clone();
        if found.expires <= seconds(now) {
            return Err(TokenError::Expired);
        }
        tokens.remove(&hash);
        // Who cannot note that it was used must not let it be used.
        self.write(&tokens).map_err(|error| {
            tracing::error!(%error, "The join tokens cannot be kept.");
            TokenError::Unknown
        })?;
        Ok(found.identity)
    }

    fn write(&self, tokens: &BTreeMap<String, Token>) -> Result<(), CaError> {
        let text = serde_json::to_string(tokens)
            .map_err(|error| CaError::Certificate(error.to_string()))?;
        files::write(&self.file, &text)
    }
}

/// 256 random bits, as hexadecimal digits.
fn random() -> Result<String, CaError> {
    let mut random = [0; 32];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| CaError::Certificate("no random numbers".to_owned()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

fn hash(token: &str) -> String {
    Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_serves_once_and_not_after_its_time() {
        let path = std::env::temp_dir().join(format!("outrigger-tokens-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let now = SystemTime::now();
        let one = tokens
            .create("spiffe://m/a", Duration::from_secs(60))
            .unwrap();
        let two = tokens
            .create("spiffe://m/b", Duration::from_secs(60))
            .unwrap();
        assert_eq!(tokens.redeem(&one, now), Ok("spiffe://m/a".to_owned()));
        assert_eq!(tokens.redeem(&one, now), Err(TokenError::Unknown));
        assert_eq!(tokens.redeem("guess", now), Err(TokenError::Unknown));
        // A restart brings nothing back.
        let tokens = Tokens::open(&path).unwrap();
        assert_eq!(tokens.redeem(&one, now), Err(TokenError::Unknown));
        let later = now + Duration::from_secs(61);
        assert_eq!(tokens.redeem(&two, later), Err(TokenError::Expired));
        std::fs::remove_dir_all(path).unwrap();
    }
}
