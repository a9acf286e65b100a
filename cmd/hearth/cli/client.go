package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// client is a connection to the operator service.
type client struct {
	operatorv1.OperatorServiceClient

	address string
	conn    *grpc.ClientConn

	mu      sync.Mutex
	dialErr error
}

// dial prepares a connection; the first call makes it.
func (a *app) dial() (*client, error) {
	c := &client{address: cmp.Or(a.control, a.env.Getenv("HEARTH_CONTROL"), DefaultControl)}
	if _, _, err := net.SplitHostPort(c.address); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("--control %q: want HOST:PORT", c.address))
	}
	conn, err := grpc.NewClient("passthrough:///"+c.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(c.dialTCP))
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("--control %q: %v", c.address, err))
	}
	c.conn = conn
	c.OperatorServiceClient = operatorv1.NewOperatorServiceClient(conn)
	return c, nil
}

// dialTCP remembers why it failed, which gRPC tells only in prose.
func (c *client) dialTCP(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dialErr = err
	return conn, err
}

func (c *client) close() { _ = c.conn.Close() }

// explain turns the error of a call into one line for people.
func (c *client) explain(err error) error {
	if err == nil {
		return nil
	}
	c.mu.Lock()
	dialErr := c.dialErr
	c.mu.Unlock()
	const hint = `is hearth-control running ("hearth up" starts one), and does --control or HEARTH_CONTROL name its --operator-listen address?`
	say := func(format string, args ...any) error {
		return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf(format, args...))
	}
	st, _ := status.FromError(err)
	switch {
	case dialErr != nil:
		return say("cannot reach hearth-control at %s: %s; %s", c.address, shortDialError(dialErr), hint)
	case st.Code() == codes.DeadlineExceeded:
		return say("hearth-control at %s did not answer within %s; %s", c.address, callLimit, hint)
	case st.Code() == codes.Canceled:
		return say("interrupted")
	case st.Code() == codes.Unavailable || st.Code() == codes.Unimplemented:
		return say("hearth-control at %s: %s; %s", c.address, st.Message(), hint)
	default:
		return errors.New(st.Message())
	}
}

// shortDialError is the reason without the address, which is named already.
func shortDialError(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	if dns := (*net.DNSError)(nil); errors.As(err, &dns) {
		return dns.Err
	}
	return err.Error()
}
