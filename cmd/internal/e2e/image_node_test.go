//go:build node

package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/aws/aws-sdk-go-v2/service/lambda/types"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	regtypes "github.com/google/go-containerregistry/pkg/v1/types"
)

// images is a registry on loopback.
type images struct {
	host           string
	user, password string
}

// serveImages serves a registry at an address, for which user and password are
// needed unless they are empty.
func serveImages(t *testing.T, address, user, password string) images {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	handler := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED"}]}`, http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	})}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return images{l.Addr().String(), user, password}
}

// layer has the probe as /app/probe and an init as /init.
func layer(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for path, program := range map[string]string{"app/probe": "probe", "init": "hearth-init"} {
		body, err := os.ReadFile(filepath.Join(bins, program))
		if err == nil {
			err = w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(body))})
		}
		if err == nil {
			_, err = w.Write(body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// push pushes an image and returns its reference.
func (r images) push(t *testing.T, tag, arch string, content []byte, config v1.Config) string {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, static.NewLayer(content, regtypes.DockerUncompressedLayer))
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", arch, config
	if img, err = mutate.ConfigFile(img, file); err != nil {
		t.Fatal(err)
	}
	ref := r.host + "/functions:" + tag
	target, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	auth := authn.Anonymous
	if r.user != "" {
		auth = &authn.Basic{Username: r.user, Password: r.password}
	}
	if err := remote.Write(target, img, remote.WithAuth(auth)); err != nil {
		t.Fatal(err)
	}
	return ref
}

// container creates a function from an image.
func (s *stack) container(t *testing.T, function, ref string, config *types.ImageConfig) error {
	t.Helper()
	_, err := s.lambda.CreateFunction(t.Context(), &lambda.CreateFunctionInput{
		FunctionName: aws.String(function), Role: aws.String(role), PackageType: types.PackageTypeImage,
		Code: &types.FunctionCode{ImageUri: aws.String(ref)}, ImageConfig: config,
		MemorySize: aws.Int32(512), Timeout: aws.Int32(5), Publish: true,
		PublishTo: types.FunctionVersionLatestPublishedLatestPublished,
		CapacityProviderConfig: &types.CapacityProviderConfig{
			LambdaManagedInstancesCapacityProviderConfig: &types.LambdaManagedInstancesCapacityProviderConfig{
				CapacityProviderArn: aws.String("arn:aws:lambda:" + region + ":" + account + ":capacity-provider:" + providerName),
			},
		},
	})
	return err
}

// dockerConfig makes what "docker login" leaves, with wrong credentials for one
// registry and the right ones for the other.
func dockerConfig(t *testing.T, wrong, right images) {
	t.Helper()
	dir := t.TempDir()
	login := func(user, password string) string {
		return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
	}
	content := fmt.Sprintf(`{"auths":{%q:{"auth":%q},%q:{"auth":%q}}}`,
		wrong.host, login(wrong.user, "wrong"), right.host, login(right.user, right.password))
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
}

// TestFunctionsFromImages: with and without credentials and overrides, and every
// way an image can be of no use.
func TestFunctionsFromImages(t *testing.T) {
	if why := missing(); why != "" {
		t.Skip(why)
	}
	public := serveImages(t, "127.0.0.1:0", "", "")
	private := serveImages(t, "127.0.0.1:0", "user", "s3cret")
	changed := serveImages(t, "127.0.0.1:0", "user", "changed")
	anonymous := serveImages(t, "127.0.0.1:0", "nobody", "knows")
	dockerConfig(t, changed, private)
	s := up(t)
	s.provider("subnet-a")
	probe := layer(t)
	entry := v1.Config{Entrypoint: []string{"/app/probe"}}
	good := public.push(t, "good", runtime.GOARCH, probe, entry)
	relay := public.push(t, "relay", runtime.GOARCH, probe, v1.Config{Entrypoint: []string{"/init", "--"}, Cmd: []string{"/nowhere"}, WorkingDir: "/app"})
	bare := public.push(t, "bare", runtime.GOARCH, probe, v1.Config{})
	t.Run("run", func(t *testing.T) {
		for function, c := range map[string]struct {
			ref    string
			config *types.ImageConfig
		}{
			"plain":       {good, nil},
			"credentials": {private.push(t, "good", runtime.GOARCH, probe, entry), nil},
			"entry":       {bare, &types.ImageConfig{EntryPoint: []string{"/app/probe"}}},
			"command":     {relay, &types.ImageConfig{Command: []string{"./probe"}}},
			"directory":   {bare, &types.ImageConfig{EntryPoint: []string{"/init", "--"}, Command: []string{"./probe"}, WorkingDirectory: aws.String("/app")}},
		} {
			t.Run(function, func(t *testing.T) {
				t.Parallel()
				s.containerRuns(t, function, c.ref, c.config)
			})
		}
	})
	t.Run("fail", func(t *testing.T) {
		for _, b := range s.badImages(t, public, changed, anonymous, probe) {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				s.containerFails(t, b)
			})
		}
	})
	t.Run("a registry that is away is waited for", s.registryReturns)
	err := s.container(t, "none", public.host+"/functions:none", nil)
	if code(err) != "InvalidParameterValueException" || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("an image that does not exist: got %v", err)
	}
	s.eventually(30*time.Second, "nothing to run", func() error {
		if envs := s.ps(); len(envs) > 0 {
			return fmt.Errorf("%+v", envs)
		}
		return nil
	})
	s.containerRuns(t, "last", good, nil)
}

func (s *stack) containerRuns(t *testing.T, function, ref string, config *types.ImageConfig) {
	t.Helper()
	begin := time.Now()
	if err := s.container(t, function, ref, config); err != nil {
		t.Fatal(err)
	}
	f := s.published(t, function, settled)
	if f.State != types.StateActive {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	t.Logf("%s after %v", f.State, time.Since(begin).Round(time.Millisecond))
	out, err := s.lambda.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String(function), Payload: []byte("{}")})
	if err != nil || out.FunctionError != nil || !strings.Contains(string(out.Payload), `"Started":1`) {
		t.Errorf("invoking: %v %s", err, payloadOf(out))
	}
	s.remove(t, function)
}

// badImage is an image of no use.
type badImage struct {
	name, ref string
	config    *types.ImageConfig
	code      types.StateReasonCode
	says      []string
}

func (*stack) badImages(t *testing.T, public, changed, anonymous images, probe []byte) []badImage {
	t.Helper()
	const (
		invalid   = types.StateReasonCodeInvalidImage
		denied    = types.StateReasonCodeImageAccessDenied
		noEntry   = types.StateReasonCodeFunctionErrorInvalidEntryPoint
		directory = types.StateReasonCodeFunctionErrorInvalidWorkingDirectory
	)
	entry := v1.Config{Entrypoint: []string{"/app/probe"}}
	good := public.push(t, "good", runtime.GOARCH, probe, entry)
	var circle bytes.Buffer
	w := tar.NewWriter(&circle)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "tmp", Linkname: "/tmp"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return []badImage{
		{"no-credentials", anonymous.push(t, "v1", runtime.GOARCH, probe, entry), nil, denied, []string{"the registry wants credentials, and this host has none for it", anonymous.host}},
		{"wrong-credentials", changed.push(t, "v1", runtime.GOARCH, probe, entry), nil, denied, []string{`the registry refuses the credentials that this host has for it, of user "user"`, changed.host}},
		{"architecture", public.push(t, "foreign", "s390x", probe, entry), nil, invalid, []string{"s390x"}},
		{"layer", public.push(t, "noise", runtime.GOARCH, bytes.Repeat([]byte("no archive "), 1000), entry), nil, invalid, []string{"invalid tar header"}},
		{"mounts", public.push(t, "circle", runtime.GOARCH, circle.Bytes(), entry), nil, invalid, []string{"too many levels of symbolic links"}},
		{"no-entry-point", public.push(t, "bare", runtime.GOARCH, probe, v1.Config{}), nil, noEntry, []string{"image has neither entry point nor command"}},
		{"entry-point", good, &types.ImageConfig{EntryPoint: []string{"/app/nothing"}}, noEntry, []string{"Runtime.InvalidEntrypoint: fork/exec /app/nothing: no such file or directory"}},
		{"entry-point-in-path", good, &types.ImageConfig{EntryPoint: []string{"node"}}, noEntry, []string{`Runtime.InvalidEntrypoint: exec: "node": executable file not found in $PATH`}},
		{"working-directory", good, &types.ImageConfig{WorkingDirectory: aws.String("/no/where")}, directory, []string{"Runtime.InvalidWorkingDir: chdir /no/where: no such file or directory"}},
	}
}

func (s *stack) containerFails(t *testing.T, b badImage) {
	t.Helper()
	begin := time.Now()
	if err := s.container(t, b.name, b.ref, b.config); err != nil {
		t.Fatal(err)
	}
	f := s.published(t, b.name, settled)
	reason := aws.ToString(f.StateReason)
	if f.State != types.StateFailed || f.StateReasonCode != b.code {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, reason)
	}
	for _, part := range b.says {
		if !strings.Contains(reason, part) {
			t.Errorf("the reason lacks %q: %.500q", part, reason)
		}
	}
	if strings.Contains(reason, "wrong") || strings.Contains(reason, "s3cret") {
		t.Errorf("the reason tells a password: %q", reason)
	}
	t.Logf("Failed after %v: %s: %.300s", time.Since(begin).Round(time.Millisecond), f.StateReasonCode, reason)
	s.remove(t, b.name)
}

// registryReturns publishes an image of a registry that cannot be reached, says
// so meanwhile, and runs it once it can.
func (s *stack) registryReturns(t *testing.T) {
	const function = "away"
	address := freeAddresses(t, 1)[0]
	if err := s.container(t, function, address+"/functions:v1", nil); err != nil {
		t.Fatal(err)
	}
	f := s.published(t, function, func(f *lambda.GetFunctionConfigurationOutput) bool {
		return strings.Contains(aws.ToString(f.StateReason), "connection refused")
	})
	if f.State != types.StatePending || !strings.Contains(aws.ToString(f.StateReason), address) {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	serveImages(t, address, "", "").push(t, "v1", runtime.GOARCH, layer(t), v1.Config{Entrypoint: []string{"/app/probe"}})
	if f := s.published(t, function, settled); f.State != types.StateActive {
		t.Errorf("got %s, %s: %s", f.State, f.StateReasonCode, aws.ToString(f.StateReason))
	}
	s.remove(t, function)
}
