package config

// Secret is a value that is never printed: every format shows asterisks. string(secret) returns its text.
type Secret string

const mask = "********"

// String masks the secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString masks the secret.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText masks the secret, in JSON and YAML too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
