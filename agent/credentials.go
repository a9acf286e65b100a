package agent

import "time"

// RoleCredentials is a session of an execution role. What is printed or encoded
// of it is no secret.
type RoleCredentials struct {
	RoleARN         string
	AccessKeyID     string
	SecretAccessKey string
	SessionToken    string
	// ExpiresAt is when they stop working.
	ExpiresAt time.Time
}

// String says whose they are.
func (c RoleCredentials) String() string { return "a session of " + c.RoleARN }

// GoString says no more than String.
func (c RoleCredentials) GoString() string { return c.String() }

// MarshalText keeps secrets out of logs.
func (c RoleCredentials) MarshalText() ([]byte, error) { return []byte(c.String()), nil }
