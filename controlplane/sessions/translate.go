package sessions

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/hearth-compute/hearth/controlplane"
	agentv1 "github.com/hearth-compute/hearth/proto/hearth/agent/v1"
)

func fromRegister(r *agentv1.Register) Heard {
	return Heard{
		Zone:         controlplane.Zone(r.GetZone()),
		Architecture: r.GetArchitecture(),
		AgentVersion: r.GetAgentVersion(),
		Hostname:     r.GetHostname(),
		Allocatable:  fromResources(r.GetAllocatable()),
		Accepted:     fromDesiredSet(r.GetAccepted()),
		Epoch:        r.GetAccepted().GetEpoch(),
		Generation:   r.GetAccepted().GetGeneration(),
	}
}

// applyReport puts r into h and tells whether anything but heat changed.
func applyReport(h *Heard, r *agentv1.Report) bool {
	envs := make([]controlplane.EnvironmentStatus, 0, len(r.GetEnvironments()))
	for _, e := range r.GetEnvironments() {
		envs = append(envs, fromEnvironmentReport(e))
	}
	news := !h.Reported || h.Stopping != r.GetStopping() || h.Refused != short(r.GetRefused(), maxReason) ||
		h.Epoch != r.GetEpoch() || h.Generation != r.GetGeneration() ||
		!slices.EqualFunc(h.Environments, envs, sameState)
	h.Reported = true
	h.Stopping = r.GetStopping()
	h.Refused = short(r.GetRefused(), maxReason)
	h.Epoch, h.Generation = r.GetEpoch(), r.GetGeneration()
	h.Environments = envs
	host := r.GetHost()
	h.Host = controlplane.HostHeat{
		CPU:       controlplane.MilliCPU(amount(host.GetUsedMilliCpu(), maxAmount)),
		Memory:    controlplane.Bytes(amount(host.GetUsedMemoryBytes(), maxAmount)),
		DiskUsed:  controlplane.Bytes(amount(host.GetUsedDiskBytes(), maxAmount)),
		DiskTotal: controlplane.Bytes(amount(host.GetTotalDiskBytes(), maxAmount)),
		InFlight:  int(amount(host.GetInFlight(), maxSlots*maxEnvironments)),
	}
	return news
}

// sameState compares all but heat; a draining environment that became idle is news.
func sameState(a, b controlplane.EnvironmentStatus) bool {
	if (a.Heat.InFlight == 0) != (b.Heat.InFlight == 0) && b.State == controlplane.EnvironmentDraining {
		return false
	}
	a.Heat, b.Heat = controlplane.EnvironmentHeat{}, controlplane.EnvironmentHeat{}
	return a == b
}

func fromEnvironmentReport(e *agentv1.EnvironmentReport) controlplane.EnvironmentStatus {
	st := controlplane.EnvironmentStatus{
		ID:             controlplane.EnvironmentID(e.GetEnvironmentId()),
		Revision:       controlplane.Revision(short(e.GetRevision(), maxText)),
		State:          fromState(e.GetState()),
		ReasonCode:     short(e.GetReasonCode(), maxText),
		Reason:         short(e.GetReason(), maxReason),
		Failures:       int(amount(e.GetFailures(), math.MaxInt32)),
		Sandbox:        short(e.GetSandboxId(), maxText),
		MaxConcurrency: int(amount(e.GetMaxConcurrency(), maxSlots)),
		Heat: controlplane.EnvironmentHeat{
			InFlight: int(amount(e.GetInFlight(), maxSlots)),
			Overrun:  int(amount(e.GetOverrunSlots(), maxSlots)),
			Limit:    int(amount(e.GetLimit(), maxSlots)),
			CPU:      controlplane.MilliCPU(amount(e.GetUsedMilliCpu(), maxAmount)),
			Memory:   controlplane.Bytes(amount(e.GetUsedMemoryBytes(), maxAmount)),
			Tmp:      controlplane.Bytes(amount(e.GetUsedTmpBytes(), maxAmount)),

			ThrottledPermille: int(amount(e.GetCpuThrottledPermille(), 1000)),
			Refusals: controlplane.Refusals{
				Concurrency: amount(e.GetRefusals().GetConcurrency(), maxAmount), CPU: amount(e.GetRefusals().GetCpu(), maxAmount),
				Memory: amount(e.GetRefusals().GetMemory(), maxAmount), Disk: amount(e.GetRefusals().GetDisk(), maxAmount),
			},
		},
	}
	if e.GetSince().IsValid() {
		st.SinceUnixMilli = e.GetSince().AsTime().UnixMilli()
	}
	return st
}

func fromState(s agentv1.EnvironmentState) controlplane.EnvironmentState {
	switch s {
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_PENDING:
		return controlplane.EnvironmentPending
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_STARTING:
		return controlplane.EnvironmentStarting
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_READY:
		return controlplane.EnvironmentReady
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_DRAINING:
		return controlplane.EnvironmentDraining
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_FAILED:
		return controlplane.EnvironmentFailed
	case agentv1.EnvironmentState_ENVIRONMENT_STATE_UNSPECIFIED:
		return controlplane.EnvironmentUnknown
	}
	return controlplane.EnvironmentUnknown
}

func fromResources(r *agentv1.Resources) controlplane.Resources {
	return controlplane.Resources{
		CPU:    controlplane.MilliCPU(amount(r.GetMilliCpu(), maxAmount)),
		Memory: controlplane.Bytes(amount(r.GetMemoryBytes(), maxAmount)),
	}
}

func toDesiredSet(s controlplane.DesiredSet) *agentv1.DesiredSet {
	out := &agentv1.DesiredSet{Epoch: s.Epoch, Generation: s.Generation, StopIntent: toIntent(s.Intent)}
	for _, p := range s.Environments {
		out.Environments = append(out.Environments, &agentv1.DesiredEnvironment{
			Assignment: toAssignment(&p.Assignment), Draining: p.Draining,
		})
	}
	return out
}

func fromDesiredSet(s *agentv1.DesiredSet) controlplane.DesiredSet {
	out := controlplane.DesiredSet{Epoch: s.GetEpoch(), Generation: s.GetGeneration()}
	for _, e := range s.GetEnvironments() {
		out.Environments = append(out.Environments, controlplane.Placement{
			Assignment: fromAssignment(e.GetAssignment()), Draining: e.GetDraining(),
		})
	}
	return out
}

func toIntent(i controlplane.StopIntent) agentv1.StopIntent {
	switch i {
	case controlplane.StopDrain:
		return agentv1.StopIntent_STOP_INTENT_DRAIN
	case controlplane.StopDelete:
		return agentv1.StopIntent_STOP_INTENT_DELETE
	case controlplane.StopFew:
	}
	return agentv1.StopIntent_STOP_INTENT_UNSPECIFIED
}

func toAssignment(a *controlplane.Assignment) *agentv1.Assignment {
	size := a.Config.Resources()
	out := &agentv1.Assignment{
		EnvironmentId:         string(a.Environment),
		FunctionArn:           a.ARN,
		FunctionName:          string(a.Function),
		Version:               string(a.Qualifier),
		Revision:              string(a.Revision),
		Image:                 &agentv1.Image{Reference: a.Image.Ref, Username: a.Image.Username, Password: a.Image.Password},
		Handler:               a.Config.Handler,
		Runtime:               a.Config.Runtime,
		OnDemand:              a.Config.OnDemand,
		RoleArn:               a.Config.RoleARN,
		TracingMode:           a.Config.TracingMode,
		Environment:           a.Config.Variables,
		Limits:                &agentv1.Resources{MilliCpu: int64(size.CPU), MemoryBytes: int64(size.Memory)},
		EphemeralStorageBytes: int64(a.Config.EphemeralMB) << 20,
		Timeout:               durationpb.New(time.Duration(a.Config.TimeoutS) * time.Second),
		InitTimeout:           durationpb.New(time.Duration(a.Config.InitTimeoutS()) * time.Second),
		MaxConcurrency:        int32(a.Config.Concurrency()), //nolint:gosec // at most 1600
		Logging: &agentv1.Logging{
			Format: a.Config.LogFormat, ApplicationLevel: a.Config.AppLogLevel,
			SystemLevel: a.Config.SysLogLevel, Group: a.Config.LogGroup,
		},
	}
	if c := a.Config.Image; c != nil {
		out.ImageConfig = &agentv1.ImageConfig{
			EntryPoint: c.EntryPoint, Command: c.Command, WorkingDirectory: c.WorkingDirectory,
		}
	}
	if a.Code.SHA256 != "" {
		out.Code = &agentv1.Code{Sha256: a.Code.SHA256, SizeBytes: int64(a.Code.Size)}
	}
	for _, l := range a.Config.Layers {
		out.Layers = append(out.Layers, &agentv1.Code{Sha256: l.Code.SHA256, SizeBytes: int64(l.Code.Size)})
	}
	return out
}

// fromAssignment is the reverse of toAssignment as far as it matters: what
// came from an agent after a restart can be sent to it again unchanged.
func fromAssignment(a *agentv1.Assignment) controlplane.Assignment {
	size := fromResources(a.GetLimits())
	cfg := controlplane.Config{
		Runtime:        a.GetRuntime(),
		Handler:        a.GetHandler(),
		MemoryMB:       int(size.Memory >> 20),
		TimeoutS:       int(max(0, a.GetTimeout().AsDuration()) / time.Second),
		Variables:      a.GetEnvironment(),
		EphemeralMB:    int(amount(a.GetEphemeralStorageBytes(), maxAmount) >> 20),
		LogFormat:      a.GetLogging().GetFormat(),
		AppLogLevel:    a.GetLogging().GetApplicationLevel(),
		SysLogLevel:    a.GetLogging().GetSystemLevel(),
		LogGroup:       a.GetLogging().GetGroup(),
		MaxConcurrency: int(amount(a.GetMaxConcurrency(), maxSlots)),
		OnDemand:       a.GetOnDemand(),
		RoleARN:        a.GetRoleArn(),
		TracingMode:    a.GetTracingMode(),
	}
	if c := a.GetImageConfig(); c != nil {
		cfg.Image = &controlplane.ImageConfig{
			EntryPoint: c.GetEntryPoint(), Command: c.GetCommand(), WorkingDirectory: c.GetWorkingDirectory(),
		}
	}
	for _, l := range a.GetLayers() {
		cfg.Layers = append(cfg.Layers, controlplane.AttachedLayer{Code: fromCode(l)})
	}
	if size.CPU > 0 {
		cfg.GiBPerVCPU = float64(cfg.MemoryMB) / 1024 / (float64(size.CPU) / 1000)
	}
	return controlplane.Assignment{
		Environment: controlplane.EnvironmentID(a.GetEnvironmentId()),
		Function:    controlplane.FunctionName(a.GetFunctionName()),
		Qualifier:   controlplane.Qualifier(a.GetVersion()),
		ARN:         a.GetFunctionArn(),
		Image: controlplane.Image{
			Ref: a.GetImage().GetReference(), Username: a.GetImage().GetUsername(), Password: a.GetImage().GetPassword(),
		},
		Publication: controlplane.Publication{
			Revision: controlplane.Revision(a.GetRevision()),
			Config:   cfg,
			Code:     fromCode(a.GetCode()),
		},
	}
}

func fromCode(c *agentv1.Code) controlplane.Code {
	return controlplane.Code{SHA256: c.GetSha256(), Size: controlplane.Bytes(amount(c.GetSizeBytes(), maxAmount))}
}
