package lambdaapi

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
)

// describe is a version on the wire, under the ARN given.
func (s *Server) describe(f *controlplane.Function, v *controlplane.Version, arn string) *types.FunctionConfiguration {
	c := &v.Config
	out := &types.FunctionConfiguration{
		FunctionName: new(string(f.Name)), FunctionArn: &arn, Version: new(string(v.Qualifier)),
		Role: &c.RoleARN, Description: &c.Description, Handler: optional(c.Handler), Runtime: types.Runtime(c.Runtime),
		MemorySize: new(int32(c.MemoryMB)), Timeout: new(int32(c.TimeoutS)), //nolint:gosec // bounded by the rules
		CodeSize: int64(v.Code.Size), CodeSha256: codeDigest(&v.Code), RevisionId: new(string(v.Revision)),
		PackageType: types.PackageType(c.PackageType), Architectures: []types.Architecture{types.Architecture(c.Architecture)},
		EphemeralStorage: &types.EphemeralStorage{Size: new(int32(c.EphemeralMB))}, //nolint:gosec // bounded by the rules
		TracingConfig:    &types.TracingConfigResponse{Mode: types.TracingMode(c.TracingMode)},
		LoggingConfig: &types.LoggingConfig{
			LogFormat: types.LogFormat(c.LogFormat), LogGroup: &c.LogGroup,
			ApplicationLogLevel: types.ApplicationLogLevel(c.AppLogLevel), SystemLogLevel: types.SystemLogLevel(c.SysLogLevel),
		},
		State: types.State(v.State), StateReason: optional(v.Reason), StateReasonCode: types.StateReasonCode(v.ReasonCode),
		LastUpdateStatus: types.LastUpdateStatus(v.Update), LastUpdateStatusReason: optional(v.UpdateReason),
		LastUpdateStatusReasonCode: types.LastUpdateStatusReasonCode(v.UpdateReasonCode),
		LastModified:               stamp(v.ModifiedAt), KMSKeyArn: optional(c.KMSKeyARN),
		ImageConfigResponse: describeImageConfig(c.Image), Layers: describeLayers(c),
	}
	if v.Qualifier == controlplane.Latest {
		out.State = latestState(f)
	}
	if c.OnDemand {
		out.SnapStart = &types.SnapStartResponse{ApplyOn: types.SnapStartApplyOnNone, OptimizationStatus: types.SnapStartOptimizationStatusOff}
	} else {
		out.CapacityProviderConfig = &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn:                   new(s.arn("capacity-provider", string(v.Provider))),
				PerExecutionEnvironmentMaxConcurrency: new(int32(c.Concurrency())), //nolint:gosec // bounded by the rules
				ExecutionEnvironmentMemoryGiBPerVCpu:  new(ratio(c)),
			},
		}
	}
	if len(c.Variables) > 0 {
		out.Environment = &types.EnvironmentResponse{Variables: c.Variables}
	}
	if c.DeadLetterARN != "" {
		out.DeadLetterConfig = &types.DeadLetterConfig{TargetArn: &c.DeadLetterARN}
	}
	return out
}

// latestState is the state of $LATEST: unless the function is on demand it is
// edited, never run.
func latestState(f *controlplane.Function) types.State {
	switch {
	case f.Deleting:
		return types.StateDeleting
	case f.OnDemand():
		return types.State(f.Latest.State)
	}
	return types.StateActiveNonInvocable
}

func ratio(c *controlplane.Config) float64 {
	if c.GiBPerVCPU > 0 {
		return c.GiBPerVCPU
	}
	return controlplane.DefaultGiBPerVCPU
}

// codeDigest is a digest as the API has it: base64 for archives, hexadecimal
// for images, nil for images of unknown digest.
func codeDigest(code *controlplane.Code) *string {
	if code.Image != "" {
		_, digest, _ := strings.Cut(code.Resolved, "@sha256:")
		return optional(digest)
	}
	digest, err := hex.DecodeString(code.SHA256)
	if err != nil || len(digest) == 0 {
		return nil
	}
	return new(base64.StdEncoding.EncodeToString(digest))
}

// stamp is a time as LastModified has it.
func stamp(t time.Time) *string {
	return new(t.UTC().Format("2006-01-02T15:04:05.000-0700"))
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func orEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
