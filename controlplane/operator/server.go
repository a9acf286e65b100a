// Package operator answers operators: it lists what runs where and how hot it
// is, drains instances, makes join tokens and merges the logs of all instances. It
// is the gRPC service that the hearth command and grpcurl talk to.
package operator

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/controlplane"
	operatorv1 "github.com/hearth-compute/hearth/proto/hearth/operator/v1"
)

// How long a join token is valid.
const (
	DefaultTokenValidity = time.Hour
	MaxTokenValidity     = 30 * 24 * time.Hour
)

// State tells what there is.
type State interface {
	// Snapshots returns one snapshot per capacity provider.
	Snapshots(ctx context.Context) ([]controlplane.Snapshot, error)
}

// Drainer empties instances.
type Drainer interface {
	// DrainInstance decides that an instance is to be emptied and returns.
	// Draining it again changes nothing. Errors: NotFound.
	DrainInstance(ctx context.Context, id controlplane.InstanceID) error
	// UndrainInstance lets it take environments again. Errors: NotFound.
	UndrainInstance(ctx context.Context, id controlplane.InstanceID) error
}

// Tokens makes join tokens.
type Tokens interface {
	// NewJoinToken makes a token with which one host joins a capacity provider.
	// Errors: NotFound when the provider does not exist.
	NewJoinToken(ctx context.Context, provider controlplane.ProviderName, validFor time.Duration) (token string, expires time.Time, err error)
}

// Server implements the operator service. It holds no state and may be called
// from anywhere.
type Server struct {
	operatorv1.UnimplementedOperatorServiceServer

	cfg Config
}

// Config is what the service needs. All fields but Stopping are required.
type Config struct {
	State   State
	Drainer Drainer
	Tokens  Tokens
	Logs    Logs
	// Stopping ends the calls that follow logs, which would not end by themselves,
	// when it is closed.
	Stopping <-chan struct{}
	Log      *slog.Logger
}

var _ operatorv1.OperatorServiceServer = (*Server)(nil)

// New makes the service; wiring registers it with
// operatorv1.RegisterOperatorServiceServer.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// ListInstances implements the service.
func (s *Server) ListInstances(ctx context.Context, req *operatorv1.ListInstancesRequest) (*operatorv1.ListInstancesResponse, error) {
	snapshots, err := s.cfg.State.Snapshots(ctx)
	if err != nil {
		return nil, s.status("listing instances", err)
	}
	return &operatorv1.ListInstancesResponse{
		Instances: instances(snapshots, controlplane.ProviderName(req.GetCapacityProvider())),
	}, nil
}

// ListEnvironments implements the service.
func (s *Server) ListEnvironments(ctx context.Context, req *operatorv1.ListEnvironmentsRequest) (*operatorv1.ListEnvironmentsResponse, error) {
	snapshots, err := s.cfg.State.Snapshots(ctx)
	if err != nil {
		return nil, s.status("listing environments", err)
	}
	return &operatorv1.ListEnvironmentsResponse{Environments: environments(snapshots, req)}, nil
}

// DrainInstance implements the service.
func (s *Server) DrainInstance(ctx context.Context, req *operatorv1.DrainInstanceRequest) (*operatorv1.DrainInstanceResponse, error) {
	const doing = "draining an instance"
	if req.GetInstance() == "" {
		return nil, s.status(doing, fmt.Errorf("the instance is required: %w", errdefs.ErrInvalidArgument))
	}
	if err := s.cfg.Drainer.DrainInstance(ctx, controlplane.InstanceID(req.GetInstance())); err != nil {
		return nil, s.status(doing, err)
	}
	return &operatorv1.DrainInstanceResponse{}, nil
}

// UndrainInstance implements the service.
func (s *Server) UndrainInstance(ctx context.Context, req *operatorv1.UndrainInstanceRequest) (*operatorv1.UndrainInstanceResponse, error) {
	const doing = "undraining an instance"
	if req.GetInstance() == "" {
		return nil, s.status(doing, fmt.Errorf("the instance is required: %w", errdefs.ErrInvalidArgument))
	}
	if err := s.cfg.Drainer.UndrainInstance(ctx, controlplane.InstanceID(req.GetInstance())); err != nil {
		return nil, s.status(doing, err)
	}
	return &operatorv1.UndrainInstanceResponse{}, nil
}

// CreateJoinToken implements the service.
func (s *Server) CreateJoinToken(ctx context.Context, req *operatorv1.CreateJoinTokenRequest) (*operatorv1.CreateJoinTokenResponse, error) {
	const doing = "creating a join token"
	validFor := DefaultTokenValidity
	if req.GetValidFor() != nil {
		validFor = req.GetValidFor().AsDuration()
	}
	switch {
	case req.GetCapacityProvider() == "":
		return nil, s.status(doing, fmt.Errorf("the capacity provider is required: %w", errdefs.ErrInvalidArgument))
	case validFor <= 0 || validFor > MaxTokenValidity:
		return nil, s.status(doing, fmt.Errorf("a token is valid for more than 0 and at most %s, not %s: %w",
			MaxTokenValidity, validFor, errdefs.ErrInvalidArgument))
	}
	token, expires, err := s.cfg.Tokens.NewJoinToken(ctx, controlplane.ProviderName(req.GetCapacityProvider()), validFor)
	if err != nil {
		return nil, s.status(doing, err)
	}
	return &operatorv1.CreateJoinTokenResponse{Token: token, ExpiresAt: timestamppb.New(expires)}, nil
}

// status is what a caller is told. The text of an error without a class, or of
// a bug, stays in the log.
func (s *Server) status(doing string, err error) error {
	for _, known := range []func(error) bool{
		errdefs.IsInvalidArgument, errdefs.IsNotFound, errdefs.IsAlreadyExists, errdefs.IsConflict,
		errdefs.IsFailedPrecondition, errdefs.IsResourceExhausted, errdefs.IsUnavailable,
		errdefs.IsUnauthorized, errdefs.IsPermissionDenied, errdefs.IsNotImplemented,
		errdefs.IsCanceled, errdefs.IsDeadlineExceeded,
	} {
		if known(err) {
			return errgrpc.ToGRPC(err)
		}
	}
	s.cfg.Log.Error("an operator's request failed", "operation", doing, "err", err)
	return errgrpc.ToGRPC(fmt.Errorf("%s failed, the log of hearth-control says why: %w", doing, errdefs.ErrInternal))
}
