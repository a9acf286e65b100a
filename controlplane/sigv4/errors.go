package sigv4

import "fmt"

// Error is a request that is not as it should be, in AWS's words. Its class is
// Unauthorized.
type Error struct {
	// Code is the name of AWS's exception.
	Code, Message string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Unauthorized is the class of containerd/errdefs.
func (*Error) Unauthorized() {}

func incomplete(format string, args ...any) error {
	return &Error{"IncompleteSignatureException", fmt.Sprintf(format, args...)}
}

func invalid(format string, args ...any) error {
	return &Error{"InvalidSignatureException", fmt.Sprintf(format, args...)}
}

func mismatch() error {
	return invalid("The request signature we calculated does not match the signature you provided. Check your AWS Secret Access " +
		"Key and signing method. Consult the service documentation for details.")
}
