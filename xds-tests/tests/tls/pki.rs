//! The certificates of all cases, made at run time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

/// The certificates of all cases, in files.
pub struct Pki {
    pub folder: PathBuf,
}

pub type Authority = Issuer<'static, KeyPair>;

impl Pki {
    pub fn make(folder: &Path) -> Self {
        fs::create_dir_all(folder).unwrap();
        let pki = Self {
            folder: folder.to_owned(),
        };
        let ca = pki.authority("ca", "Test CA", 2035);
        let other = pki.authority("other_ca", "Other CA", 2035);
        let old = pki.authority("old_ca", "Old CA", 2021);
        pki.leaf("server", &ca, 2035, |params| {
            params.subject_alt_names = vec![
                dns("server.example"),
                SanType::URI("spiffe://td/ns/a/sa/b".try_into().unwrap()),
            ];
        });
        pki.leaf("client", &ca, 2035, |params| {
            let name = &mut params.distinguished_name;
            name.push(DnType::OrganizationName, "Org, Inc.");
            params.subject_alt_names = vec![
                SanType::URI("spiffe://td/ns/c/sa/d".try_into().unwrap()),
                dns("client.example"),
                dns("second.example"),
            ];
        });
        pki.leaf("expired", &ca, 2021, |params| {
            params.subject_alt_names = vec![dns("client.example")];
        });
        pki.leaf("wrong_ca", &other, 2035, |_| {});
        pki.leaf("of_old_ca", &old, 2035, |_| {});
        pki.leaf("wrong_san", &ca, 2035, |params| {
            params.subject_alt_names = vec![dns("other.example")];
        });
        pki.leaf("no_san", &ca, 2035, |_| {});
        pki.leaf("is_ca", &ca, 2035, |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        pki.leaf("server_only", &ca, 2035, |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        });
        let key = KeyPair::generate().unwrap();
        let own = params("self_signed", 2035).self_signed(&key).unwrap();
        pki.write("self_signed", &own.pem(), &key);
        pki.first_version();
        pki
    }

    pub fn authority(&self, file: &str, name: &str, until: i32) -> Authority {
        let mut params = params(name, until);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.self_signed(&key).unwrap().pem(), &key);
        Issuer::new(params, key)
    }

    pub fn leaf(
        &self,
        file: &str,
        issuer: &Authority,
        until: i32,
        change: impl FnOnce(&mut CertificateParams),
    ) {
        let mut params = params(file, until);
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        self.write(file, &params.signed_by(&key, issuer).unwrap().pem(), &key);
    }

    /// An X.509 v1 certificate, which only OpenSSL makes.
    fn first_version(&self) {
        let path = |name: &str| self.folder.join(name);
        let key = KeyPair::generate().unwrap();
        fs::write(path("v1.key"), key.serialize_pem()).unwrap();
        openssl(
            &["req", "-new", "-subj", "/CN=v1", "-key"],
            &[path("v1.key")],
            &["-out"],
            &[path("v1.csr")],
        );
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "900", "-CAcreateserial", "-in"]);
        command.arg(path("v1.csr")).arg("-CA").arg(path("ca.crt"));
        command
            .arg("-CAkey")
            .arg(path("ca.key"))
            .arg("-out")
            .arg(path("v1.crt"));
        assert!(command.output().expect("openssl runs").status.success());
    }

    pub fn write(&self, file: &str, certificate: &str, key: &KeyPair) {
        fs::write(self.folder.join(format!("{file}.crt")), certificate).unwrap();
        fs::write(self.folder.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    pub fn crt(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.crt"))
            .display()
            .to_string()
    }

    pub fn key(&self, name: &str) -> String {
        self.folder
            .join(format!("{name}.key"))
            .display()
            .to_string()
    }
}

pub fn openssl(first: &[&str], file: &[PathBuf], then: &[&str], out: &[PathBuf]) {
    let mut command = Command::new("openssl");
    command.args(first).args(file).args(then).args(out);
    assert!(command.output().expect("openssl runs").status.success());
}

pub fn params(name: &str, until: i32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(until, 1, 1);
    params
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}
