package metrics

import (
	"fmt"
	"net/url"
)

// CheckOTLP tells what is wrong with the address of an OTLP collector: it is
// http://HOST:PORT, or https:// for TLS, and spoken to by gRPC; empty means none.
func CheckOTLP(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" {
		return fmt.Errorf("%q is not http://HOST:PORT or https://HOST:PORT", endpoint)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q has more than a host and a port", endpoint)
	}
	return nil
}
