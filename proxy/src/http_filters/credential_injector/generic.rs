//! A credential that is a secret, as it stands.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use outrigger_proto::pb::envoy::extensions::http::injected_credentials::generic::v3 as pb;

use super::secret_text;
use crate::config::{ConfigPath, Rejected};
use crate::http::HeaderName;
use crate::secrets::{SecretCell, SecretKind, SecretWatcher};
use crate::server::FactoryContext;

pub(super) const TYPE_NAME: &str = "envoy.extensions.http.injected_credentials.generic.v3.Generic";

/// A converted `Generic`; follows its secret.
pub(super) struct GenericCredential {
    header: HeaderName,
    prefix: Box<[u8]>,
    cell: Arc<SecretCell>,
    /// None: there is no secret yet, or an empty one.
    value: ArcSwapOption<Box<[u8]>>,
}

impl GenericCredential {
    pub(super) fn from_proto(
        proto: pb::Generic,
        cx: &FactoryContext<'_>,
        path: &ConfigPath<'_>,
    ) -> Result<Arc<Self>, Rejected> {
        let pb::Generic {
            credential,
            header,
            header_value_prefix,
        } = proto;
        let secret = path.required("credential", credential)?;
        let path = path.field("credential");
        let secrets = &cx.server.secrets;
        let cell = secrets.find(SecretKind::Generic, secret, cx, &path)?;
        let header = match &*header {
            "" => "authorization",
            header => header,
        };
        let credential = Arc::new(Self {
            header: HeaderName::new(header),
            prefix: header_value_prefix.into_bytes().into(),
            cell,
            value: ArcSwapOption::empty(),
        });
        let watcher: Arc<dyn SecretWatcher> = credential.clone();
        credential.cell.watch(Arc::downgrade(&watcher));
        credential
            .secret_changed()
            .map_err(|error| path.reject(error))?;
        Ok(credential)
    }

    pub(super) fn field(&self) -> (&HeaderName, Option<Arc<Box<[u8]>>>) {
        (&self.header, self.value.load_full())
    }
}

impl SecretWatcher for GenericCredential {
    fn secret_changed(&self) -> Result<(), String> {
        let Some(secret) = self.cell.get() else {
            return Ok(());
        };
        let text = secret_text(&secret)?;
        if text.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return Err("the secret has more than one line".to_owned());
        }
        let value = (!text.is_empty()).then(|| [&*self.prefix, &text].concat());
        self.value.store(value.map(|value| Arc::new(value.into())));
        Ok(())
    }
}
