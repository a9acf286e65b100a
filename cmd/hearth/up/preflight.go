package up

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Preflight is what must hold before anything is started.
type Preflight struct {
	// UID is the user this process runs as.
	UID int
	// Binaries must be there and executable.
	Binaries []string
	// ContainerdAddress is the socket that must answer.
	ContainerdAddress string
}

// Check reports everything that is missing, with what to do about it. Errors:
// FailedPrecondition.
func (p Preflight) Check(ctx context.Context) error {
	if p.UID != 0 {
		return errdefs.ErrFailedPrecondition.WithMessage("hearth up needs root, because it runs containers: sudo hearth up")
	}
	var errs []error
	for _, path := range p.Binaries {
		if err := unix.Access(path, unix.X_OK); err != nil {
			errs = append(errs, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"%s: %v; hearth-control, hearth-agent and hearth-init belong next to hearth", path, err)))
		}
	}
	if err := containerdAnswers(ctx, p.ContainerdAddress); err != nil {
		errs = append(errs, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
			"containerd does not answer at %s: %v; install it if it is missing (Debian: apt-get install containerd runc containernetworking-plugins), then start it: systemctl start containerd",
			p.ContainerdAddress, err)))
	}
	return errors.Join(errs...)
}

func containerdAnswers(ctx context.Context, socket string) error {
	if _, err := os.Stat(socket); err != nil {
		return errors.Unwrap(err) // the path is in the message already
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errTooSlow)
	defer cancel()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{})
	if err != nil {
		st, _ := status.FromError(err)
		return errors.New(st.Message())
	}
	if got := resp.GetStatus(); got != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("it says it is %s", got)
	}
	return nil
}

// free checks that nothing listens on the addresses yet: hearth-control would
// only fail over and over.
func (a Addresses) free(ctx context.Context) error {
	var errs []error
	for _, l := range []struct{ flag, address string }{
		{"listen", a.Lambda},
		{"agent-listen", a.Agents},
		{"operator-listen", a.Operators},
		{"metrics-listen", a.Metrics},
	} {
		if err := tryListen(ctx, l.address); err != nil {
			errs = append(errs, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"--%s: %v; is another Hearth running?", l.flag, err)))
		}
	}
	return errors.Join(errs...)
}

// tryListen tries for a moment: a process that just ended may not have let go
// of its listener yet.
func tryListen(ctx context.Context, address string) error {
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			return lis.Close()
		}
		if time.Since(begun) > time.Second {
			return err
		}
	}
}

// ready asks hearth-control whether it is.
func (a Addresses) ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errTooSlow)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(a.Metrics)+"/readyz", http.NoBody)
	if err != nil {
		return false
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
