package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
)

// RefusedError says why somebody could not subscribe.
type RefusedError struct {
	// Type and Message are AWS's.
	Type, Message string
	class         error
}

// Error implements error.
func (e *RefusedError) Error() string { return e.Type + ": " + e.Message }

// Unwrap gives the error its class: FailedPrecondition if it is too late,
// InvalidArgument otherwise.
func (e *RefusedError) Unwrap() error { return e.class }

func invalid(format string, args ...any) error {
	return &RefusedError{Type: "ValidationError", Message: fmt.Sprintf(format, args...), class: errdefs.ErrInvalidArgument}
}

// buffering is how much a batch has at most, and how long it fills up.
type buffering struct {
	maxItems, maxBytes int
	timeout            time.Duration
}

// request is the body of a subscription.
type request struct {
	SchemaVersion string   `json:"schemaVersion"`
	Types         []string `json:"types"`
	Destination   struct {
		Protocol string `json:"protocol"`
		URI      string `json:"URI"`
		Port     int64  `json:"port"`
	} `json:"destination"`
	Buffering struct {
		MaxItems  *int64 `json:"maxItems"`
		MaxBytes  *int64 `json:"maxBytes"`
		TimeoutMS *int64 `json:"timeoutMs"`
	} `json:"buffering"`
}

// schemaVersions are those accepted. AWS has only the first on managed instances;
// the second differs in nothing that is sent here, and collectors still ask for
// it.
func schemaVersions() []string { return []string{"2025-01-29", "2022-12-13"} }

// Subscribe subscribes an extension the way the body of its request says, in
// place of what it subscribed to before. Errors are *[RefusedError].
func (h *Hub) Subscribe(ctx context.Context, name string, body []byte) error {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return invalid("Invalid JSON: %v", err)
	}
	s := &subscriber{hub: h, name: name, wake: make(chan struct{}, 1)}
	var err error
	if s.categories, err = r.categories(); err != nil {
		return err
	}
	if s.buffering, err = r.bounds(); err != nil {
		return err
	}
	if s.to, err = r.destination(ctx, h); err != nil {
		return err
	}
	if !h.enter(s) {
		s.to.close()
		return &RefusedError{
			Type: "Telemetry.SubscriptionClosed", Message: "Telemetry API subscription is closed", class: errdefs.ErrFailedPrecondition,
		}
	}
	h.subscribed(name, s.categories)
	return nil
}

func (r request) categories() (all category, err error) {
	if !slices.Contains(schemaVersions(), r.SchemaVersion) {
		return 0, invalid("schema validation error: schemaVersion must be one of %q, not %.40q", schemaVersions(), r.SchemaVersion)
	}
	if len(r.Types) == 0 {
		return 0, invalid("schema validation error: types must have at least 1 item")
	}
	names := everything.names()
	for _, t := range r.Types {
		i := slices.Index(names, t)
		if i < 0 {
			return 0, invalid("schema validation error: types must be of %q, not %.40q", names, t)
		}
		all |= 1 << i
	}
	return all, nil
}

// bounds are AWS's: what is not given has a default.
func (r request) bounds() (buffering, error) {
	var errs []error
	within := func(name string, given *int64, otherwise, least, most int64) int64 {
		switch {
		case given == nil:
			return otherwise
		case *given < least || *given > most:
			errs = append(errs, invalid("schema validation error: buffering.%s must be %d to %d, not %d", name, least, most, *given))
		}
		return *given
	}
	b := buffering{
		maxItems: int(within("maxItems", r.Buffering.MaxItems, 10_000, 1_000, 10_000)),
		maxBytes: int(within("maxBytes", r.Buffering.MaxBytes, 256<<10, 256<<10, 1<<20)),
		timeout:  time.Duration(within("timeoutMs", r.Buffering.TimeoutMS, 1_000, 25, 30_000)) * time.Millisecond,
	}
	if len(errs) > 0 {
		return buffering{}, errs[0]
	}
	return b, nil
}

func (r request) destination(ctx context.Context, h *Hub) (destination, error) {
	switch d := r.Destination; {
	case d.Protocol == "HTTP" && d.URI != "":
		return httpTo(h, d.URI)
	case d.Protocol == "TCP" && d.Port >= 1 && d.Port <= maxPort:
		to, err := newTCP(ctx, h, strconv.FormatInt(d.Port, 10))
		if err != nil {
			return nil, invalid("Invalid destination: could not TCP dial provided address 127.0.0.1:%d: %v", d.Port, cause(err))
		}
		return to, nil
	}
	return nil, invalid("schema validation error: destination must have the protocol HTTP and a URI, or the protocol TCP and a port from 1 to 65535")
}

const maxPort = 65535

// httpTo is the destination at a URI, which must lead to the environment itself.
func httpTo(h *Hub, uri string) (destination, error) {
	to, err := url.Parse(uri)
	if err != nil {
		return nil, invalid("Invalid destination: could not parse destination.URI: %v", cause(err))
	}
	if to.Scheme != "http" {
		return nil, invalid("Invalid destination: destination.URI scheme must be http")
	}
	if !slices.Contains([]string{"sandbox.localdomain", "sandbox", "127.0.0.1"}, to.Hostname()) {
		return nil, invalid("Invalid destination: destination.URI host must be sandbox.localdomain")
	}
	port := to.Port()
	if port == "" {
		port = "80"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > maxPort {
		return nil, invalid("Invalid destination: destination.URI port must be 1 to 65535")
	}
	return newHTTP(h, &url.URL{Scheme: "http", Host: to.Host, Path: to.Path, RawPath: to.RawPath, RawQuery: to.RawQuery}, port), nil
}

// cause is an error without what says more than extensions need to know.
func cause(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err
	}
	if inner, ok := errors.AsType[*net.OpError](err); ok {
		return inner.Err
	}
	return err
}
