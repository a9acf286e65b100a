package containerd

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestPullErrorsTellBrokenImagesFromHostsInTrouble: containerd says most of it in
// words only.
func TestPullErrorsTellBrokenImagesFromHostsInTrouble(t *testing.T) {
	t.Parallel()
	unknown := func(text string) error { return status.Error(codes.Unknown, text) }
	for _, c := range []struct {
		err   error
		class error
	}{
		{unknown(`failed to extract layer sha256:1: mount callback failed on /x: archive/tar: invalid tar header`), errdefs.ErrFailedPrecondition},
		{unknown(`failed to extract layer sha256:1: mount callback failed on /x: unexpected EOF`), errdefs.ErrFailedPrecondition},
		{unknown(`wrong diff id "sha256:1" calculated on extraction "sha256:2"`), errdefs.ErrFailedPrecondition},
		{errors.New(`children: invalid desc sha256:1: invalid character '<'`), errdefs.ErrFailedPrecondition},
		{unknown(`runc create failed: error mounting "/t" to rootfs at "/tmp": too many levels of symbolic links`), errdefs.ErrFailedPrecondition},
		{unknown(`failed to extract layer sha256:1: write /x: no space left on device`), errdefs.ErrResourceExhausted},
		{errors.New(`failed to copy: write /ingest/data: no space left on device`), errdefs.ErrResourceExhausted},
		{unknown(`failed to extract layer sha256:1: write /x: input/output error`), errdefs.ErrUnavailable},
		{unknown(`failed to extract layer sha256:1: read-only file system`), errdefs.ErrUnavailable},
		{status.Error(codes.Unavailable, `failed to extract layer sha256:1: error reading from server: EOF`), errdefs.ErrUnavailable},
		{errors.New(`failed to do request: dial tcp 127.0.0.1:1: connect: connection refused`), errdefs.ErrUnavailable},
		{unknown(`runc create failed: unable to apply cgroup configuration`), errdefs.ErrUnavailable},
		{status.Error(codes.FailedPrecondition, `unexpected commit digest sha256:1, expected sha256:2`), errdefs.ErrFailedPrecondition},
	} {
		got := classifyPull(c.err)
		if !errors.Is(got, c.class) {
			t.Errorf("%v: got %v, want %v", c.err, got, c.class)
		}
		for _, other := range []error{errdefs.ErrFailedPrecondition, errdefs.ErrResourceExhausted, errdefs.ErrUnavailable} {
			if !errors.Is(c.class, other) && errors.Is(got, other) {
				t.Errorf("%v: it is %v as well", c.err, other)
			}
		}
	}
}
