//! The names of types and entities, as URNs.
//!
//! * type: `urn:vcloud:type:<vendor>:<nss>:<version>`;
//! * entity: `urn:vcloud:entity:<vendor>:<nss>:<uuid>`, without a version, so that
//!   it is stable over upgrades of the type.
//!
//! What parses here is canonical: two names are equal exactly if their texts
//! are, and neither contains a byte that the storage layout uses to separate.

use std::fmt;
use std::str::FromStr;

/// Bytes of a vendor or of an nss.
pub const NAME_BYTES_MAX: usize = 64;

const TYPE_PREFIX: &str = "urn:vcloud:type:";
const ENTITY_PREFIX: &str = "urn:vcloud:entity:";

/// Why a text is not the URN that it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrnError {
    /// It does not begin as it must or has another number of parts.
    #[error("it is not of the form {expected}")]
    Form {
        /// The form.
        expected: &'static str,
    },
    /// A vendor or an nss.
    #[error(
        "the {part} is not 1 to 64 letters, digits, `_`, `-` or `.`, beginning with a letter or digit"
    )]
    Name {
        /// `vendor` or `nss`.
        part: &'static str,
    },
    /// A version.
    #[error("the version is not MAJOR.MINOR.PATCH in plain decimal numbers, without a label")]
    Version,
    /// The beginning of a version.
    #[error("the version prefix is not the beginning of MAJOR.MINOR.PATCH, such as 1 or 1.2")]
    VersionPrefix,
    /// The last part of an entity's id.
    #[error("the last part is not a UUID such as 5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e")]
    Uuid,
}

/// A version of a type: strictly MAJOR.MINOR.PATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Changes when readers of the old version would break.
    pub major: u32,
    /// Changes with additions.
    pub minor: u32,
    /// Changes with corrections.
    pub patch: u32,
}

impl FromStr for Version {
    type Err = UrnError;

    fn from_str(text: &str) -> Result<Self, UrnError> {
        let numbers = version_numbers(text).ok_or(UrnError::Version)?;
        let [major, minor, patch] = numbers[..] else { return Err(UrnError::Version) };
        Ok(Self { major, minor, patch })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What all versions of a type have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeName {
    vendor: String,
    nss: String,
}

impl TypeName {
    /// The name of these two parts.
    ///
    /// # Errors
    ///
    /// [`UrnError::Name`] if one of them is not a name.
    pub fn new(vendor: &str, nss: &str) -> Result<Self, UrnError> {
        let part = |part, text: &str| {
            if is_name(text) { Ok(text.to_owned()) } else { Err(UrnError::Name { part }) }
        };
        Ok(Self { vendor: part("vendor", vendor)?, nss: part("nss", nss)? })
    }

    /// Who defines the type.
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// The type's name among its vendor's.
    pub fn nss(&self) -> &str {
        &self.nss
    }
}

/// `vendor:nss`.
impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.vendor, self.nss)
    }
}

/// Names one version of a type. Displayed as its URN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TypeId {
    /// The type.
    pub name: TypeName,
    /// Its version.
    pub version: Version,
}

impl TypeId {
    /// The id without the URN's beginning: `vendor:nss:version`.
    pub fn short(&self) -> String {
        format!("{}:{}", self.name, self.version)
    }
}

impl FromStr for TypeId {
    type Err = UrnError;

    fn from_str(text: &str) -> Result<Self, UrnError> {
        let form = UrnError::Form { expected: "urn:vcloud:type:<vendor>:<nss>:<version>" };
        let rest = text.strip_prefix(TYPE_PREFIX).ok_or(form.clone())?;
        let [vendor, nss, version] = parts(rest)[..] else { return Err(form) };
        Ok(Self { name: TypeName::new(vendor, nss)?, version: version.parse()? })
    }
}

impl fmt::Display for TypeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TYPE_PREFIX}{}:{}", self.name, self.version)
    }
}

/// Names an entity. Displayed as its URN.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    name: TypeName,
    uuid: String,
}

impl EntityId {
    /// The id of a new entity of type `name`.
    ///
    /// # Errors
    ///
    /// [`UrnError::Uuid`] if `uuid` is not one. Upper case becomes lower case.
    pub fn new(name: TypeName, uuid: &str) -> Result<Self, UrnError> {
        if !is_uuid(uuid) {
            return Err(UrnError::Uuid);
        }
        Ok(Self { name, uuid: uuid.to_ascii_lowercase() })
    }

    /// What all versions of the entity's type have in common.
    pub fn type_name(&self) -> &TypeName {
        &self.name
    }

    /// The UUID, in lower case.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The id without the URN's beginning: `vendor:nss:uuid`.
    pub fn short(&self) -> String {
        format!("{}:{}", self.name, self.uuid)
    }
}

impl FromStr for EntityId {
    type Err = UrnError;

    fn from_str(text: &str) -> Result<Self, UrnError> {
        let form = UrnError::Form { expected: "urn:vcloud:entity:<vendor>:<nss>:<uuid>" };
        let rest = text.strip_prefix(ENTITY_PREFIX).ok_or(form.clone())?;
        let [vendor, nss, uuid] = parts(rest)[..] else { return Err(form) };
        Self::new(TypeName::new(vendor, nss)?, uuid)
    }
}

impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ENTITY_PREFIX}{}:{}", self.name, self.uuid)
    }
}

/// The beginning of a version: none, one, two or all three of its numbers.
/// `1.2` stands for `1.2.0`, `1.2.7` and so on, never for `1.20.0`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionPrefix(Vec<u32>);

impl VersionPrefix {
    /// Whether `version` begins so.
    pub fn matches(&self, version: Version) -> bool {
        [version.major, version.minor, version.patch].starts_with(&self.0)
    }

    /// Whether any version begins so.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this is a whole version.
    pub fn is_whole(&self) -> bool {
        self.0.len() == 3
    }
}

impl FromStr for VersionPrefix {
    type Err = UrnError;

    /// Parses a prefix; the empty text is the empty prefix.
    fn from_str(text: &str) -> Result<Self, UrnError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        match version_numbers(text) {
            Some(numbers) if numbers.len() <= 3 => Ok(Self(numbers)),
            _ => Err(UrnError::VersionPrefix),
        }
    }
}

impl fmt::Display for VersionPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

/// Which types a list or a watch asks for: all versions of one type, or those
/// that begin in a certain way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePrefix {
    /// The type.
    pub name: TypeName,
    /// The versions.
    pub versions: VersionPrefix,
}

impl TypePrefix {
    /// Whether `id` is one of the types.
    pub fn matches(&self, id: &TypeId) -> bool {
        self.name == id.name && self.versions.matches(id.version)
    }
}

impl FromStr for TypePrefix {
    type Err = UrnError;

    fn from_str(text: &str) -> Result<Self, UrnError> {
        let form = UrnError::Form { expected: "urn:vcloud:type:<vendor>:<nss>[:<version prefix>]" };
        let rest = text.strip_prefix(TYPE_PREFIX).ok_or(form.clone())?;
        let (vendor, nss, versions) = match parts(rest)[..] {
            [vendor, nss] => (vendor, nss, VersionPrefix::default()),
            [vendor, nss, versions] if !versions.is_empty() => (vendor, nss, versions.parse()?),
            _ => return Err(form),
        };
        Ok(Self { name: TypeName::new(vendor, nss)?, versions })
    }
}

impl fmt::Display for TypePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{TYPE_PREFIX}{}", self.name)?;
        if self.versions.is_empty() { Ok(()) } else { write!(f, ":{}", self.versions) }
    }
}

fn parts(text: &str) -> Vec<&str> {
    text.split(':').collect()
}

fn version_numbers(text: &str) -> Option<Vec<u32>> {
    let number = |text: &str| {
        let plain = !text.is_empty()
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (text == "0" || !text.starts_with('0'));
        if plain { text.parse().ok() } else { None }
    };
    text.split('.').map(number).collect()
}

fn is_name(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte))
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_ids_are_read_and_written_alike() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let parsed = text.parse::<TypeId>();
            let short = parsed.as_ref().map(TypeId::short).map_err(ToString::to_string);
            assert_eq!(short, expected.map(str::to_owned).map_err(str::to_owned), "{text}");
            if let Ok(id) = parsed {
                assert_eq!(id.to_string(), text);
            }
        };
        let form = "it is not of the form urn:vcloud:type:<vendor>:<nss>:<version>";
        let version =
            "the version is not MAJOR.MINOR.PATCH in plain decimal numbers, without a label";
        check("urn:vcloud:type:vmware:capvcdCluster:1.3.0", Ok("vmware:capvcdCluster:1.3.0"));
        check("urn:vcloud:type:a-b:solutions_add_on:10.0.7", Ok("a-b:solutions_add_on:10.0.7"));
        check("urn:vcloud:type:vmware:capvcdCluster", Err(form));
        check("urn:vcloud:entity:vmware:capvcdCluster:1.3.0", Err(form));
        check("urn:vcloud:type:vmware:x:1.3", Err(version));
        check("urn:vcloud:type:vmware:x:1.3.0-rc1", Err(version));
        check("urn:vcloud:type:vmware:x:1.03.0", Err(version));
        check("urn:vcloud:type:vmware:x:1.3.99999999999", Err(version));
        check("urn:vcloud:type:vmware:x:1.3.0:y", Err(form));
        let name = "the vendor is not 1 to 64 letters, digits, `_`, `-` or `.`, beginning with a letter or digit";
        check("urn:vcloud:type::x:1.0.0", Err(name));
        check("urn:vcloud:type:a/b:x:1.0.0", Err(name));
    }

    #[test]
    fn entity_ids_are_canonical() {
        let id = "urn:vcloud:entity:vmware:capvcdCluster:5E0A7B9C-0f3d-4f0e-9a53-0d1c2b3a4f5e";
        let id: EntityId = id.parse().unwrap();
        assert_eq!(id.uuid(), "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e");
        assert_eq!(id.to_string().parse(), Ok(id));
        let check = |text: &str, expected: UrnError| {
            assert_eq!(text.parse::<EntityId>(), Err(expected), "{text}");
        };
        check("urn:vcloud:entity:vmware:capvcdCluster:demo", UrnError::Uuid);
        check(
            "urn:vcloud:entity:vmware:x:1.0.0:5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e",
            UrnError::Form { expected: "urn:vcloud:entity:<vendor>:<nss>:<uuid>" },
        );
    }

    #[test]
    fn a_prefix_counts_numbers_not_characters() {
        let check = |prefix: &str, version: &str, expected: bool| {
            let prefix: VersionPrefix = prefix.parse().unwrap();
            assert_eq!(prefix.matches(version.parse().unwrap()), expected, "{prefix} {version}");
        };
        check("", "1.2.3", true);
        check("1", "1.2.3", true);
        check("1", "10.2.3", false);
        check("1.2", "1.2.3", true);
        check("1.2", "1.20.3", false);
        check("1.2.3", "1.2.3", true);
        for bad in ["1.", ".", "1.2.3.4", "x", "1.02"] {
            assert_eq!(bad.parse::<VersionPrefix>(), Err(UrnError::VersionPrefix), "{bad}");
        }
    }

    #[test]
    fn type_prefixes_with_and_without_versions() {
        let id: TypeId = "urn:vcloud:type:vmware:capvcdCluster:1.3.0".parse().unwrap();
        for text in
            ["urn:vcloud:type:vmware:capvcdCluster", "urn:vcloud:type:vmware:capvcdCluster:1"]
        {
            let prefix: TypePrefix = text.parse().unwrap();
            assert!(prefix.matches(&id));
            assert_eq!(prefix.to_string(), text);
        }
        assert!("urn:vcloud:type:vmware".parse::<TypePrefix>().is_err());
        assert!("urn:vcloud:type:vmware:capvcdCluster:".parse::<TypePrefix>().is_err());
    }
}
