//! Who signs tokens in the example: `/jwks.json` has the key, `/token?user=NAME&seconds=N` a token of that user.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use outrigger_xds_tests::Error;

use crate::server::{Request, serve};

/// Has a key that is as old as the process.
pub(crate) struct Issuer {
    key: EcdsaKeyPair,
    id: &'static str,
}

impl Issuer {
    pub(crate) fn new(id: &'static str) -> Result<Self, Error> {
        let failed = |_| "no key can be made";
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        Ok(Self { key, id })
    }

    /// The public key, as a JSON web key set.
    pub(crate) fn jwks(&self) -> String {
        // 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let id = self.id;
        format!(
            r#"{{"keys": [{{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "{id}", "x": "{x}", "y": "{y}"}}]}}"#
        )
    }

    /// A token that is good for some seconds, or was until some seconds ago.
    pub(crate) fn token(&self, user: &str, audience: &str, seconds: i64) -> Result<String, Error> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let expires = i64::try_from(now)? + seconds;
        let head = format!(r#"{{"alg": "ES256", "typ": "JWT", "kid": "{}"}}"#, self.id);
        let claims = format!(
            r#"{{"iss": "https://login.example", "aud": "{audience}", "sub": "{user}", "exp": {expires}}}"#
        );
        let signed = [head, claims]
            .map(|part| URL_SAFE_NO_PAD.encode(part))
            .join(".");
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| "a token cannot be signed")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// Serves until the process ends.
    pub(crate) fn start(self: &Arc<Self>, address: SocketAddr) -> Result<(), Error> {
        let this = Arc::clone(self);
        serve(address, move |request: &Request| {
            this.answer(&request.target)
        })?;
        Ok(())
    }

    fn answer(&self, target: &str) -> (u16, String) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let is_name =
            |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let seconds = parameter("seconds").map_or(Ok(3600), str::parse);
        match (path, parameter("user").filter(is_name), seconds) {
            ("/jwks.json", ..) => (200, self.jwks()),
            ("/token", Some(user), Ok(seconds)) => match self.token(user, "orders", seconds) {
                Ok(token) => (200, token),
                Err(error) => (500, error.to_string()),
            },
            ("/token", ..) => (400, "/token?user=NAME&seconds=NUMBER\n".to_owned()),
            _ => (404, String::new()),
        }
    }
}
