package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// CheckFiles returns an error that lists the embedders' files that cannot be used.
func (c *Config) CheckFiles() error {
	v := &validation{config: c}
	for i, e := range c.Embedders {
		key := fmt.Sprintf("embedders[%d].", i)
		if e.APIKeyFile != "" {
			if _, err := os.ReadFile(e.APIKeyFile); err != nil {
				v.fail(key+"api_key_file", "%v", err)
			}
		}
		if _, name, err := e.TLS.load(); err != nil {
			v.fail(key+"tls."+name, "%v", err)
		}
	}
	return failure(v.problems)
}

// Load reads the files of the group. key is the group's key, for messages. Without encryption it returns nil.
// The error is an *Error.
func (t TLS) Load(key string) (*tls.Config, error) {
	loaded, name, err := t.load()
	if err != nil {
		return nil, &Error{Problems: []Problem{{Key: key + "." + name, Message: err.Error()}}}
	}
	return loaded, nil
}

// load also returns the key that is wrong.
func (t TLS) load() (loaded *tls.Config, key string, err error) {
	if !t.Enabled {
		return nil, "", nil
	}
	loaded = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.Insecure}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, "ca_file", err
		}
		loaded.RootCAs = x509.NewCertPool()
		if !loaded.RootCAs.AppendCertsFromPEM(pem) {
			return nil, "ca_file", fmt.Errorf("%s holds no PEM certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, "cert_file", err
		}
		loaded.Certificates = []tls.Certificate{pair}
	}
	return loaded, "", nil
}
