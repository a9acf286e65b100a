package session

import (
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/hearth-compute/hearth/agent"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

// EncodeAssignment is the form in which an assignment is kept with its sandbox.
func EncodeAssignment(a agent.Assignment) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(assignmentToProto(a))
	if err != nil {
		return nil, fmt.Errorf("encoding assignment %s: %w: %w", a.Environment, err, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// DecodeAssignment reads what EncodeAssignment, of this or an earlier version,
// wrote. Errors: InvalidArgument.
func DecodeAssignment(b []byte) (agent.Assignment, error) {
	var m agentv1.Assignment
	if err := proto.Unmarshal(b, &m); err != nil {
		return agent.Assignment{}, fmt.Errorf("decoding an assignment: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if !validIdentifier(m.GetEnvironmentId()) {
		return agent.Assignment{}, fmt.Errorf("decoding an assignment: bad environment id %.64q: %w", m.GetEnvironmentId(), errdefs.ErrInvalidArgument)
	}
	return assignmentFromProto(&m), nil
}

func assignmentToProto(a agent.Assignment) *agentv1.Assignment {
	m := &agentv1.Assignment{
		EnvironmentId: string(a.Environment),
		FunctionArn:   a.FunctionARN,
		FunctionName:  a.FunctionName,
		Version:       a.Version,
		Revision:      a.Revision,
		Image:         &agentv1.Image{Reference: a.Image.Ref, Username: a.Image.Username, Password: a.Image.Password},
		Handler:       a.Handler,
		Runtime:       a.Runtime,
		OnDemand:      a.OnDemand,
		RoleArn:       a.RoleARN,
		TracingMode:   a.TracingMode,
		Environment:   a.Variables,
		Limits:        resourcesToProto(a.Limits),

		EphemeralStorageBytes: int64(a.EphemeralStorage),
		Timeout:               durationpb.New(a.Timeout),
		InitTimeout:           durationpb.New(a.InitTimeout),
		MaxConcurrency:        int32(a.MaxConcurrency), //nolint:gosec // at most 1600
		Logging: &agentv1.Logging{
			Format: a.Logging.Format, ApplicationLevel: a.Logging.ApplicationLevel,
			SystemLevel: a.Logging.SystemLevel, Group: a.Logging.Group,
		},
	}
	if c := a.ImageConfig; len(c.EntryPoint)+len(c.Command)+len(c.WorkingDirectory) > 0 {
		m.ImageConfig = &agentv1.ImageConfig{EntryPoint: c.EntryPoint, Command: c.Command, WorkingDirectory: c.WorkingDirectory}
	}
	if a.Code != (agent.Code{}) {
		m.Code = &agentv1.Code{Sha256: a.Code.SHA256, SizeBytes: int64(a.Code.Size)}
	}
	for _, l := range a.Layers {
		m.Layers = append(m.Layers, &agentv1.Code{Sha256: l.SHA256, SizeBytes: int64(l.Size)})
	}
	return m
}

func assignmentFromProto(m *agentv1.Assignment) agent.Assignment {
	var layers []agent.Code
	for _, l := range m.GetLayers() {
		layers = append(layers, agent.Code{SHA256: l.GetSha256(), Size: agent.Bytes(l.GetSizeBytes())})
	}
	return agent.Assignment{
		Environment:  agent.EnvironmentID(m.GetEnvironmentId()),
		FunctionARN:  m.GetFunctionArn(),
		FunctionName: m.GetFunctionName(),
		Version:      m.GetVersion(),
		Revision:     m.GetRevision(),
		Image: agent.Image{
			Ref: m.GetImage().GetReference(), Username: m.GetImage().GetUsername(), Password: m.GetImage().GetPassword(),
		},
		Code:     agent.Code{SHA256: m.GetCode().GetSha256(), Size: agent.Bytes(m.GetCode().GetSizeBytes())},
		Handler:  m.GetHandler(),
		Runtime:  m.GetRuntime(),
		OnDemand: m.GetOnDemand(),
		Layers:   layers,
		RoleARN:  m.GetRoleArn(),

		TracingMode: m.GetTracingMode(),
		ImageConfig: agent.ImageConfig{
			EntryPoint: m.GetImageConfig().GetEntryPoint(), Command: m.GetImageConfig().GetCommand(),
			WorkingDirectory: m.GetImageConfig().GetWorkingDirectory(),
		},
		Variables:        m.GetEnvironment(),
		Limits:           resourcesFromProto(m.GetLimits()),
		EphemeralStorage: agent.Bytes(m.GetEphemeralStorageBytes()),
		Timeout:          m.GetTimeout().AsDuration(),
		InitTimeout:      m.GetInitTimeout().AsDuration(),
		MaxConcurrency:   int(m.GetMaxConcurrency()),
		Logging: agent.Logging{
			Format: m.GetLogging().GetFormat(), ApplicationLevel: m.GetLogging().GetApplicationLevel(),
			SystemLevel: m.GetLogging().GetSystemLevel(), Group: m.GetLogging().GetGroup(),
		},
	}
}

func resourcesToProto(r agent.Resources) *agentv1.Resources {
	return &agentv1.Resources{MilliCpu: int64(r.CPU), MemoryBytes: int64(r.Memory)}
}

func resourcesFromProto(m *agentv1.Resources) agent.Resources {
	return agent.Resources{CPU: agent.MilliCPU(m.GetMilliCpu()), Memory: agent.Bytes(m.GetMemoryBytes())}
}

func setToProto(set agent.DesiredSet) *agentv1.DesiredSet {
	m := &agentv1.DesiredSet{Epoch: set.Epoch, Generation: set.Generation, StopIntent: intentToProto(set.Intent)}
	for _, e := range set.Environments {
		m.Environments = append(m.Environments, &agentv1.DesiredEnvironment{
			Assignment: assignmentToProto(e.Assignment), Draining: e.Draining,
		})
	}
	return m
}

func setFromProto(m *agentv1.DesiredSet) agent.DesiredSet {
	set := agent.DesiredSet{Epoch: m.GetEpoch(), Generation: m.GetGeneration(), Intent: intentFromProto(m.GetStopIntent())}
	for _, e := range m.GetEnvironments() {
		set.Environments = append(set.Environments, agent.DesiredEnvironment{
			Assignment: assignmentFromProto(e.GetAssignment()), Draining: e.GetDraining(),
		})
	}
	return set
}

func intentToProto(i agent.StopIntent) agentv1.StopIntent {
	switch i {
	case agent.StopDrain:
		return agentv1.StopIntent_STOP_INTENT_DRAIN
	case agent.StopDelete:
		return agentv1.StopIntent_STOP_INTENT_DELETE
	case agent.StopFew:
	}
	return agentv1.StopIntent_STOP_INTENT_UNSPECIFIED
}

func intentFromProto(i agentv1.StopIntent) agent.StopIntent {
	switch i {
	case agentv1.StopIntent_STOP_INTENT_DRAIN:
		return agent.StopDrain
	case agentv1.StopIntent_STOP_INTENT_DELETE:
		return agent.StopDelete
	case agentv1.StopIntent_STOP_INTENT_UNSPECIFIED:
	}
	return agent.StopFew
}

func stateToProto(s agent.EnvironmentState) agentv1.EnvironmentState {
	switch s {
	case agent.StatePending:
		return agentv1.EnvironmentState_ENVIRONMENT_STATE_PENDING
	case agent.StateStarting:
		return agentv1.EnvironmentState_ENVIRONMENT_STATE_STARTING
	case agent.StateReady:
		return agentv1.EnvironmentState_ENVIRONMENT_STATE_READY
	case agent.StateDraining:
		return agentv1.EnvironmentState_ENVIRONMENT_STATE_DRAINING
	case agent.StateFailed:
		return agentv1.EnvironmentState_ENVIRONMENT_STATE_FAILED
	}
	return agentv1.EnvironmentState_ENVIRONMENT_STATE_UNSPECIFIED
}

func reportToProto(r agent.Report) *agentv1.Report {
	m := &agentv1.Report{
		At:         timestamppb.New(r.At),
		Epoch:      r.Epoch,
		Generation: r.Generation,
		Refused:    text(r.Refused, maxReason),
		Stopping:   r.Stopping,
		Host: &agentv1.HostHeat{
			UsedMilliCpu: int64(r.Host.CPU), UsedMemoryBytes: int64(r.Host.Memory),
			UsedDiskBytes: int64(r.Host.DiskUsed), TotalDiskBytes: int64(r.Host.DiskTotal),
			InFlight: int64(r.Host.InFlight),
		},
		Environments: make([]*agentv1.EnvironmentReport, 0, len(r.Environments)),
	}
	for _, e := range r.Environments {
		m.Environments = append(m.Environments, statusToProto(e))
	}
	return m
}

func statusToProto(e agent.EnvironmentStatus) *agentv1.EnvironmentReport {
	return &agentv1.EnvironmentReport{
		EnvironmentId:   string(e.Environment),
		FunctionArn:     e.FunctionARN,
		Revision:        e.Revision,
		State:           stateToProto(e.State),
		ReasonCode:      text(e.ReasonCode, maxName),
		Reason:          text(e.Reason, maxReason),
		Failures:        int32(e.Failures), //nolint:gosec // one every 30 s at most
		SandboxId:       e.Sandbox,
		Since:           timestamppb.New(e.Since),
		MaxConcurrency:  int32(e.MaxConcurrency), //nolint:gosec // at most 1600
		InFlight:        int32(e.Heat.InFlight),  //nolint:gosec // at most MaxConcurrency
		UsedMilliCpu:    int64(e.Heat.CPU),
		UsedMemoryBytes: int64(e.Heat.Memory),
		UsedTmpBytes:    int64(e.Heat.Tmp),
		Limit:           int32(e.Heat.Limit),   //nolint:gosec // at most MaxConcurrency
		OverrunSlots:    int32(e.Heat.Overrun), //nolint:gosec // at most MaxConcurrency

		CpuThrottledPermille: int32(e.Heat.ThrottledPermille), //nolint:gosec // at most 1000
		Refusals: &agentv1.Refusals{
			Concurrency: e.Heat.Refusals.Concurrency, Cpu: e.Heat.Refusals.CPU,
			Memory: e.Heat.Refusals.Memory, Disk: e.Heat.Refusals.Disk,
		},
	}
}

func registrationToProto(r Registration) *agentv1.Register {
	return &agentv1.Register{
		AgentVersion:     r.Version,
		ProcessId:        r.ProcessID,
		Allocatable:      resourcesToProto(r.Allocatable),
		Architecture:     r.Architecture,
		Zone:             text(r.Zone, maxName),
		CapacityProvider: text(r.CapacityProvider, maxName),
		Hostname:         text(r.Hostname, maxName),
	}
}
