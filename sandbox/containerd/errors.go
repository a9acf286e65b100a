package containerd

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"

	"github.com/hearth-compute/hearth/sandbox"
)

// fail wraps err with what was being done to which sandbox and makes sure that
// it has a class: containerd's, or Unavailable for what the host refused.
func (d *Driver) fail(op string, id sandbox.ID, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s sandbox %s: %w", op, id, d.blame(classify(err)))
}

// blame says so if err is because containerd is away.
func (d *Driver) blame(err error) error {
	conn, ok := d.client.Conn().(*grpc.ClientConn)
	if !ok || !errdefs.IsUnavailable(err) || conn.GetState() == connectivity.Ready {
		return err
	}
	return fmt.Errorf("containerd does not answer at %s: %w", d.cfg.Address, err)
}

// classify gives err a class the contract knows.
func classify(err error) error {
	if _, ok := status.FromError(err); ok {
		err = errgrpc.ToNative(err)
	}
	for _, is := range []func(error) bool{
		errdefs.IsInvalidArgument, errdefs.IsNotFound, errdefs.IsAlreadyExists, errdefs.IsFailedPrecondition,
		errdefs.IsResourceExhausted, errdefs.IsUnavailable, errdefs.IsUnauthorized, errdefs.IsPermissionDenied,
	} {
		if is(err) {
			return err
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errdefs.ErrUnavailable, err)
}

// unlessNotFound drops NotFound, which is no error to those who delete.
func unlessNotFound(err error) error {
	if err == nil {
		return nil
	}
	if err = classify(err); errdefs.IsNotFound(err) {
		return nil
	}
	return err
}
