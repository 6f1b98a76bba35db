//! What the sections of a policy refer to.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sections::{Section, Sections};
use super::{
    ApiKeys, CallLimits, Demand, ExtAuthz, Jwt, Missing, Problem, Provider, Requirement, port_of,
};
use crate::model::{ApiKeysSpec, Claims, ExtAuthzSpec, GatewayPolicy, JwtSpec, Key, Model};
use crate::world::{Protocol, Service, is_opaque};

pub(super) struct Resolver<'a> {
    pub(super) model: &'a Model,
    pub(super) services: &'a BTreeMap<Key, Service>,
    pub(super) providers: &'a BTreeMap<Key, Arc<Provider>>,
    pub(super) policy: &'a Key,
    /// References that lead nowhere: reason and message.
    pub(super) missing: Vec<Problem>,
}

impl Resolver<'_> {
    pub(super) fn sections(&mut self, policy: &GatewayPolicy) -> Sections {
        let spec = &policy.spec;
        let limits = spec.rate_limits.as_ref().map(|limits| {
            let limits = CallLimits {
                policy: self.policy.clone(),
                limits: limits.clone(),
            };
            Section::On(Arc::new(limits))
        });
        fn plain<T: Clone>(
            spec: Option<&T>,
            is_off: impl Fn(&T) -> bool,
        ) -> Option<Section<Arc<T>>> {
            spec.map(|spec| match is_off(spec) {
                true => Section::Off,
                false => Section::On(Arc::new(spec.clone())),
            })
        }
        let jwt = spec.jwt.as_ref();
        let keys = spec.api_keys.as_ref();
        let basic = spec.basic_auth.as_ref();
        let authorizer = spec.ext_authz.as_ref();
        Sections {
            addresses: plain(spec.addresses.as_ref(), |it| it.off),
            jwt: jwt.map(|jwt| match jwt.off {
                true => Section::Off,
                false => self.section(|it| it.jwt(jwt)),
            }),
            api_keys: keys.map(|keys| match keys.off {
                true => Section::Off,
                false => self.section(|it| it.api_keys(keys)),
            }),
            basic_auth: basic.map(|basic| match &basic.secret {
                None => Section::Off,
                Some(secret) => self.section(|it| it.basic_auth(secret)),
            }),
            ext_authz: authorizer.map(|authorizer| match authorizer.off {
                true => Section::Off,
                false => self.section(|it| it.ext_authz(authorizer)),
            }),
            rate_limits: limits,
            cors: plain(spec.cors.as_ref(), |it| it.off),
            csrf: plain(spec.csrf.as_ref(), |it| it.off),
            errors: spec.errors.as_deref().map(Arc::from),
            bandwidth: plain(spec.bandwidth.as_ref(), |it| it.off),
            max_body_bytes: spec.max_body_bytes,
            trusted_hops: spec.trusted_hops,
            compression: spec.compression.clone(),
            timeout: spec.timeout,
            retries: spec.retries.clone(),
        }
    }

    fn section<T>(&mut self, resolve: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Section<T> {
        match resolve(self) {
            Ok(section) => Section::On(section),
            Err(problem) => {
                self.missing.push(problem);
                Section::Broken
            }
        }
    }

    fn jwt(&mut self, spec: &JwtSpec) -> Result<Arc<Jwt>, Problem> {
        let mut used = BTreeMap::new();
        let mut demand =
            |(any_of, all_of): (&[String], &[String]), allow_missing, claims: &Claims| {
                let mut named = Vec::new();
                for name in any_of.iter().chain(all_of) {
                    let key = Key::new(&self.policy.namespace, name);
                    let provider = self.providers.get(&key).ok_or_else(|| {
                        let message = format!("there is no JwtProvider {key} that can be used");
                        ("InvalidProvider", message)
                    })?;
                    used.insert(key.clone(), Arc::clone(provider));
                    named.push(key);
                }
                let missing = match allow_missing {
                    true => Missing::Allowed,
                    false => Missing::Denied,
                };
                let tokens = match (any_of.is_empty(), all_of.is_empty()) {
                    (false, _) => Requirement::Any(named, missing),
                    (true, false) => Requirement::All(named, missing),
                    (true, true) => Requirement::Nothing,
                };
                let claims = claims.clone();
                Ok::<_, Problem>(Demand { tokens, claims })
            };
        let providers = (&spec.any_of[..], &spec.all_of[..]);
        let otherwise = demand(providers, spec.allow_missing, &spec.claims)?;
        let mut rules = Vec::new();
        for rule in &spec.rules {
            let providers = (&rule.any_of[..], &rule.all_of[..]);
            let wanted = demand(providers, rule.allow_missing, &rule.claims)?;
            rules.push((rule.paths.clone(), wanted));
        }
        Ok(Arc::new(Jwt {
            providers: used,
            otherwise,
            rules,
        }))
    }

    fn api_keys(&mut self, spec: &ApiKeysSpec) -> Result<Arc<ApiKeys>, Problem> {
        let mut clients = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for name in &spec.secrets {
            for (client, key) in self.opaque(name)? {
                let bad = |what: String| ("InvalidSecret", format!("Secret {name}: {what}"));
                // No value of it may get into the message.
                if key.is_empty() || key.contains(['\n', '\r', '\0']) {
                    return Err(bad(format!("{client} is empty or has more than one line")));
                }
                if let Some(other) = seen.insert(key.clone(), client.clone()) {
                    return Err(bad(format!("{client} has the same key as {other}")));
                }
                if clients.insert(client.clone(), key).is_some() {
                    return Err(bad(format!("{client} is in another Secret, too")));
                }
            }
        }
        if let Some(name) = spec
            .allow_clients
            .iter()
            .find(|name| !clients.contains_key(*name))
        {
            return Err(("InvalidSecret", format!("no Secret has a key of {name}")));
        }
        if clients.is_empty() {
            return Err(("InvalidSecret", "there is no key in any Secret".to_owned()));
        }
        Ok(Arc::new(ApiKeys {
            spec: spec.clone(),
            clients,
        }))
    }

    fn basic_auth(&mut self, name: &str) -> Result<Arc<str>, Problem> {
        let bad = |what: String| ("InvalidSecret", format!("Secret {name}: {what}"));
        let text = self
            .opaque(name)?
            .remove(".htpasswd")
            .ok_or_else(|| bad(".htpasswd is missing".to_owned()))?;
        let mut users = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            // As Envoy reads them: 28 letters of base64 are a SHA-1.
            let user = line
                .split_once(":{SHA}")
                .filter(|(user, hash)| !user.is_empty() && hash.len() == 28);
            let (user, _) = user
                .ok_or_else(|| bad(format!(".htpasswd: line {} is no USER:{{SHA}}…", index + 1)))?;
            if users.insert(user, ()).is_some() {
                return Err(bad(format!(".htpasswd: {user} is there twice")));
            }
        }
        match users.is_empty() {
            true => Err(bad(".htpasswd has no lines".to_owned())),
            false => Ok(Arc::from(text)),
        }
    }

    /// What is in a secret of the policy's namespace.
    fn opaque(&self, name: &str) -> Result<BTreeMap<String, String>, Problem> {
        let key = Key::new(&self.policy.namespace, name);
        let stored = self
            .model
            .secrets
            .get(&key)
            .ok_or_else(|| ("InvalidSecret", format!("there is no Secret {key}")))?;
        let secret = &stored.object;
        if !is_opaque(secret) {
            let message = format!("Secret {key} is not of the type Opaque");
            return Err(("InvalidSecret", message));
        }
        let mut found = BTreeMap::new();
        for (name, bytes) in secret.data.iter().flatten() {
            let text = String::from_utf8(bytes.0.clone())
                .map_err(|_| ("InvalidSecret", format!("Secret {key}: {name} is no text")))?;
            found.insert(name.clone(), text);
        }
        // It goes before `data`, as in Kubernetes.
        for (name, text) in secret.string_data.iter().flatten() {
            found.insert(name.clone(), text.clone());
        }
        Ok(found)
    }

    fn ext_authz(&mut self, spec: &ExtAuthzSpec) -> Result<Arc<ExtAuthz>, Problem> {
        let of_grpc = spec.grpc.as_ref().map(|grpc| (&grpc.service, grpc.port));
        let of_http = spec.http.as_ref().map(|http| (&http.service, http.port));
        let (name, port) = of_grpc
            .or(of_http)
            .ok_or_else(|| ("BackendNotFound", "nobody is named".to_owned()))?;
        let target = (Key::new(&self.policy.namespace, name), port);
        match (port_of(self.services, &target)?, of_grpc) {
            (Protocol::Tcp, _) | (Protocol::Http1, Some(_)) => {
                let wanted = if of_grpc.is_some() { "HTTP/2" } else { "HTTP" };
                let message = format!("port {port} of Service {} is not of {wanted}", target.0);
                Err(("UnsupportedProtocol", message))
            }
            _ => Ok(Arc::new(ExtAuthz {
                policy: self.policy.clone(),
                spec: spec.clone(),
                target,
            })),
        }
    }
}
