//! `JwtRequirement`: which tokens a request must have, and whether it has them.

use std::mem;
use std::rc::Rc;

use outrigger_proto::pb::envoy::extensions::filters::http::jwt_authn::v3 as pb;
use pb::jwt_requirement::RequiresType;
use serde_json::{Map, Value, json};

use super::extract::{Extractor, Found};
use super::provider::{KeySource, Provider};
use super::status::Fault;
use super::token::Token;
use super::{Providers, WorkerState};
use crate::config::{ConfigPath, Rejected};
use crate::http::{HeaderName, RequestHead};

/// A converted `JwtRequirement`.
#[derive(Debug)]
pub(super) enum Requirement {
    Nothing,
    Provider {
        index: usize,
        audiences: Option<Box<[Box<str>]>>,
        extractor: Extractor,
    },
    Any {
        children: Vec<Requirement>,
        /// Also good where nothing is found; or whatever is found.
        tolerance: Option<Tolerance>,
    },
    All(Vec<Requirement>),
    Optional {
        tolerance: Tolerance,
        extractor: Extractor,
    },
    /// Whatever is found is good; what is known of it only if it is.
    ExtractOnly {
        /// `verification_status_header`, which says that a token is not good.
        status_header: HeaderName,
        extractor: Extractor,
    },
}

/// What a requirement lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tolerance {
    Missing,
    MissingOrFailed,
}

/// A look at the tokens of one request.
pub(super) struct Examination<'a> {
    pub(super) state: &'a WorkerState,
    pub(super) head: &'a mut RequestHead,
    /// Seconds since 1970.
    pub(super) now: u64,
    /// For the dynamic metadata.
    pub(super) metadata: Map<String, Value>,
    pub(super) clear_route: bool,
    /// Providers whose keys were fetched for this request, and whether they came.
    pub(super) fetched: &'a [(usize, bool)],
}

/// The provider whose keys must be fetched before the examination can come to an end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeysNeeded(pub(super) usize);

/// What came of a requirement; or which keys are needed first.
type Outcome = Result<Result<(), Fault>, KeysNeeded>;

/// The header by which others see that a token is not to be trusted.
const SIGNATURE_VERIFIED: &str = "x-jwt-signature-verified";

/// Deeper requirements than anybody writes.
const MAX_DEPTH: usize = 32;

impl Requirement {
    pub(super) fn from_proto(
        proto: pb::JwtRequirement,
        providers: &Providers,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        Self::nested(proto, providers, MAX_DEPTH, path)
    }

    fn nested(
        proto: pb::JwtRequirement,
        providers: &Providers,
        depth: usize,
        path: &ConfigPath<'_>,
    ) -> Result<Self, Rejected> {
        if depth == 0 {
            return Err(path.reject(format!("is nested more than {MAX_DEPTH} times")));
        }
        let pb::JwtRequirement { requires_type } = proto;
        let list = |name: &str, requirements: Vec<pb::JwtRequirement>| {
            path.field(name)
                .each("requirements", requirements, |requirement, path| {
                    Self::nested(requirement, providers, depth - 1, path)
                })
        };
        let provider = |name: String, audiences: Vec<String>, path: &ConfigPath<'_>| {
            let index = providers.index(&name).ok_or_else(|| {
                path.field("provider_name")
                    .reject(format!("\"{name}\" is not the name of a provider"))
            })?;
            Ok(Self::Provider {
                index,
                audiences: (!audiences.is_empty()).then(|| {
                    audiences
                        .iter()
                        .map(|a| super::provider::plain(a).into())
                        .collect()
                }),
                extractor: Extractor::new([&providers.list[index]]),
            })
        };
        let optional = |tolerance| Self::Optional {
            tolerance,
            extractor: Extractor::new(&providers.list),
        };
        Ok(match requires_type {
            None => Self::Nothing,
            Some(RequiresType::ProviderName(name)) => provider(name, Vec::new(), path)?,
            Some(RequiresType::ProviderAndAudiences(pb::ProviderWithAudiences {
                provider_name,
                audiences,
            })) => provider(
                provider_name,
                audiences,
                &path.field("provider_and_audiences"),
            )?,
            Some(RequiresType::RequiresAll(pb::JwtRequirementAndList { requirements })) => {
                Self::All(list("requires_all", requirements)?)
            }
            Some(RequiresType::RequiresAny(pb::JwtRequirementOrList { requirements })) => {
                let children = list("requires_any", requirements)?;
                let tolerance = children.iter().filter_map(Self::tolerance).max();
                let children: Vec<_> = children
                    .into_iter()
                    .filter(|child| child.tolerance().is_none())
                    .collect();
                match (tolerance, children.is_empty()) {
                    (Some(tolerance), true) => optional(tolerance),
                    (tolerance, _) => Self::Any {
                        children,
                        tolerance,
                    },
                }
            }
            Some(RequiresType::AllowMissing(_)) => optional(Tolerance::Missing),
            Some(RequiresType::AllowMissingOrFailed(_)) => optional(Tolerance::MissingOrFailed),
            Some(RequiresType::ExtractOnlyWithoutValidation(
                pb::ExtractOnlyWithoutValidation {
                    verification_status_header,
                },
            )) => Self::ExtractOnly {
                status_header: HeaderName::new(match &*verification_status_header {
                    "" => SIGNATURE_VERIFIED,
                    name => name,
                }),
                extractor: Extractor::new(&providers.list),
            },
        })
    }

    fn tolerance(&self) -> Option<Tolerance> {
        match self {
            Self::Optional { tolerance, .. } => Some(*tolerance),
            _ => None,
        }
    }

    /// Whether a request meets it. What is known of its good tokens is written into it.
    pub(super) fn examine(&self, request: &mut Examination<'_>) -> Outcome {
        match self {
            Self::Nothing => Ok(Ok(())),
            Self::Provider {
                index,
                audiences,
                extractor,
            } => {
                let claimed = Some((*index, audiences.as_deref()));
                request.tokens(extractor, claimed, None)
            }
            Self::Optional {
                tolerance,
                extractor,
            } => request.tokens(extractor, None, Some(*tolerance)),
            Self::ExtractOnly {
                status_header,
                extractor,
            } => {
                let status = request.look(extractor, None, true)?;
                if status.is_err_and(|fault| fault != Fault::Missing) {
                    request.head.fields.set(status_header, "false");
                }
                Ok(Ok(()))
            }
            Self::All(children) => {
                for child in children {
                    if let Err(fault) = child.examine(request)? {
                        return Ok(Err(fault));
                    }
                }
                Ok(Ok(()))
            }
            Self::Any {
                children,
                tolerance,
            } => {
                let mut worst = Fault::Missing;
                for child in children {
                    match child.examine(request)? {
                        Ok(()) => return Ok(Ok(())),
                        // What says more than that there is no token for a provider counts.
                        Err(fault)
                            if worst == Fault::Missing
                                || !matches!(fault, Fault::Missing | Fault::UnknownIssuer) =>
                        {
                            worst = fault;
                        }
                        Err(_) => {}
                    }
                }
                let passes = match tolerance {
                    Some(Tolerance::MissingOrFailed) => true,
                    Some(Tolerance::Missing) => worst == Fault::Missing,
                    None => false,
                };
                Ok(if passes { Ok(()) } else { Err(worst) })
            }
        }
    }
}

impl Examination<'_> {
    /// Looks at all tokens that are found. `claimed`: of this provider; else the issuer of each token tells.
    fn tokens(
        &mut self,
        extractor: &Extractor,
        claimed: Option<(usize, Option<&[Box<str>]>)>,
        tolerance: Option<Tolerance>,
    ) -> Outcome {
        let status = self.look(extractor, claimed, tolerance.is_some())?;
        Ok(match tolerance {
            Some(Tolerance::MissingOrFailed) => Ok(()),
            Some(Tolerance::Missing) if status == Err(Fault::Missing) => Ok(()),
            _ => status,
        })
    }

    /// What becomes of the last token that is looked at. `all`: bad ones do not end the look.
    fn look(
        &mut self,
        extractor: &Extractor,
        claimed: Option<(usize, Option<&[Box<str>]>)>,
        all: bool,
    ) -> Outcome {
        extractor.sanitize(self.head);
        let mut status = Err(Fault::Missing);
        let found = extractor.extract(self.head);
        if found.is_empty() {
            self.note_failure(None, Fault::Missing);
        }
        // The last one first, as Envoy has it. All of them must be good: one that is bad could be taken for the good one
        // further on.
        for mut token in found.into_iter().rev() {
            let mut provider = claimed.map(|(index, _)| index);
            status = self.token(&mut token, claimed, &mut provider)?;
            if let Err(fault) = status {
                self.note_failure(provider, fault);
                if !all {
                    break;
                }
            }
        }
        Ok(status)
    }

    fn token(
        &mut self,
        found: &mut Found<'_>,
        claimed: Option<(usize, Option<&[Box<str>]>)>,
        provider: &mut Option<usize>,
    ) -> Outcome {
        let state = self.state;
        let cached = claimed.and_then(|(index, _)| state.cached(index, &found.text, self.now));
        let known_good = cached.is_some();
        let token = match cached {
            Some(token) => token,
            None => match Token::parse(mem::take(&mut found.text), &state.last_header) {
                Ok(token) => Rc::new(token),
                Err(fault) => return Ok(Err(fault)),
            },
        };
        if !found.allows(&token.claims.issuer) {
            return Ok(Err(Fault::UnknownIssuer));
        }
        let providers = &state.config.providers;
        let Some(index) = provider.or_else(|| providers.of_issuer(&token.claims.issuer)) else {
            return Ok(Err(Fault::UnknownIssuer));
        };
        *provider = Some(index);
        let chosen = &providers.list[index];
        let audiences = claimed.and_then(|(_, audiences)| audiences);
        if let Err(fault) = chosen.check(&token, audiences, self.now) {
            return Ok(Err(fault));
        }
        if !known_good {
            if let Err(fault) = self.verify(index, chosen, &token)? {
                return Ok(Err(fault));
            }
            if claimed.is_some() {
                state.remember(index, token.clone());
            }
        }
        self.clear_route |= chosen.write_headers(&token, self.head);
        if !chosen.keeps_token() {
            found.remove(self.head);
        }
        chosen.extract(&token, &mut self.metadata);
        Ok(Ok(()))
    }

    fn verify(&self, index: usize, provider: &Provider, token: &Token) -> Outcome {
        match &provider.keys {
            KeySource::Local(keys) => Ok(keys.verify(token)),
            KeySource::Remote(keys) => {
                let came = self.fetched.iter().find(|(known, _)| *known == index);
                let came = came.map(|(_, came)| *came);
                if came == Some(false) {
                    return Ok(Err(Fault::JwksFetchFail));
                }
                // What was fetched for this request counts for it, however short its time is.
                keys.with_keys(came.is_some(), |keys| keys.verify(token))
                    .ok_or(KeysNeeded(index))
            }
        }
    }

    /// `failed_status_in_metadata`. Where no provider is known, the only one counts.
    fn note_failure(&mut self, provider: Option<usize>, fault: Fault) {
        let list = &self.state.config.providers.list;
        let provider = match (provider, &list[..]) {
            (Some(index), _) => &list[index],
            (None, [single]) => single,
            (None, _) => return,
        };
        if !provider.failed_status_in_metadata.is_empty() {
            let status = json!({"code": fault.code(), "message": fault.text()});
            let key = provider.failed_status_in_metadata.to_string();
            self.metadata.insert(key, status);
        }
    }
}
