// Package storetest is the conformance suite of store.DB: what it says holds
// for every driver.
package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// Open opens the store that lives in dir; the same dir is the same store. It
// fails the test when it cannot. The suite closes what it opens.
type Open func(t testing.TB, dir string) store.DB

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, c := range []struct {
		name string
		test func(*testing.T, Open)
	}{
		{"a new store is empty", testEmpty},
		{"what was put is read back whole", testRoundTrip},
		{"a put replaces", testReplace},
		{"lists are ordered", testOrder},
		{"what is not there is not found and deletes of it pass", testNotFound},
		{"deleting a function deletes its versions", testDeleteFunction},
		{"versions of layers are ordered by number and replaced", testLayers},
		{"a version needs a number or $LATEST.PUBLISHED", testQualifier},
		{"epochs count up", testEpoch},
		{"invariant 1: a reopened store has everything", testReopen},
		{"invariant 2: a failed update changed nothing", testFailedUpdate},
		{"a write that failed fails the update that hid it", testHiddenFailure},
		{"a panic undoes its update and reaches its caller", testPanic},
		{"invariant 3: a view sees every update before it", testViewSeesUpdates},
		{"a view is one state", testViewIsOneState},
		{"a failing update hurts no other of its commit", testFailingAmongOthers},
		{"updates are serial", testSerial},
		{"a cancelled update does not run", testCancelled},
		{"a closed store is unavailable", testClosed},
		{"random histories equal a map", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open)
		})
	}
}

func fresh(t *testing.T, open Open) store.DB {
	t.Helper()
	db := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("closing the store: %v", err)
		}
	})
	return db
}

func update(t *testing.T, db store.DB, fn func(store.Writer) error) {
	t.Helper()
	if err := db.Update(t.Context(), fn); err != nil {
		t.Fatalf("updating: %v", err)
	}
}

func view(t *testing.T, db store.DB, fn func(store.Reader) error) {
	t.Helper()
	if err := db.View(t.Context(), fn); err != nil {
		t.Fatalf("viewing: %v", err)
	}
}

// contents is everything a reader can list.
type contents struct {
	Providers []controlplane.CapacityProvider
	Functions []controlplane.Function
	Versions  []controlplane.Version
	Aliases   []controlplane.Alias
	Layers    []controlplane.Layer
	// LayerVersions are those of all layers.
	LayerVersions []controlplane.LayerVersion
	Instances     []controlplane.Instance
	Epoch         uint64
}

func read(r store.Reader) (c contents, err error) {
	var errs [8]error
	c.Providers, errs[0] = r.Providers()
	c.Functions, errs[1] = r.Functions()
	c.Versions, errs[2] = r.Versions("")
	c.Instances, errs[3] = r.Instances()
	c.Epoch, errs[4] = r.Epoch()
	c.Aliases, errs[5] = r.Aliases("")
	c.Layers, errs[6] = r.Layers()
	c.LayerVersions, errs[7] = r.LayerVersions("")
	return c, errors.Join(errs[:]...)
}

func snapshot(t *testing.T, db store.DB) (c contents) {
	t.Helper()
	view(t, db, func(r store.Reader) (err error) {
		c, err = read(r)
		return err
	})
	return c
}

func testEmpty(t *testing.T, open Open) {
	c := snapshot(t, fresh(t, open))
	layers := len(c.Layers) + len(c.LayerVersions)
	if n := len(c.Providers) + len(c.Functions) + len(c.Versions) + len(c.Aliases) + len(c.Instances) + layers; n != 0 || c.Epoch != 0 {
		t.Errorf("a new store has %+v", c)
	}
}

func testRoundTrip(t *testing.T, open Open) {
	db := fresh(t, open)
	want := example()
	token := store.JoinToken{
		ID: "t1", SecretHash: []byte{0, 1, 255}, Provider: "pool", Instance: "i-1",
		Expires: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC), UsedBy: "i-2",
	}
	update(t, db, func(w store.Writer) error { return errors.Join(fill(w, want), w.PutJoinToken(token)) })
	if diff := cmp.Diff(want, snapshot(t, db)); diff != "" {
		t.Errorf("lists differ (-put +read):\n%s", diff)
	}
	view(t, db, func(r store.Reader) error {
		p, err1 := r.Provider("pool")
		f, err2 := r.Function("thumb")
		v, err3 := r.Version("thumb", "1")
		tk, err4 := r.JoinToken("t1")
		if diff := cmp.Diff(want.Providers[0], p); diff != "" {
			t.Errorf("provider differs (-put +read):\n%s", diff)
		}
		if diff := cmp.Diff(want.Functions[0], f); diff != "" {
			t.Errorf("function differs (-put +read):\n%s", diff)
		}
		if diff := cmp.Diff(want.Versions[0], v); diff != "" {
			t.Errorf("version differs (-put +read):\n%s", diff)
		}
		if diff := cmp.Diff(token, tk); diff != "" {
			t.Errorf("join token differs (-put +read):\n%s", diff)
		}
		tokens, err5 := r.JoinTokens()
		if diff := cmp.Diff([]store.JoinToken{token}, tokens); diff != "" {
			t.Errorf("join tokens differ (-put +read):\n%s", diff)
		}
		in, err6 := r.Instance(want.Instances[0].ID)
		if diff := cmp.Diff(want.Instances[0], in); diff != "" {
			t.Errorf("instance differs (-put +read):\n%s", diff)
		}
		return errors.Join(err1, err2, err3, err4, err5, err6, layersEqual(t, r, want))
	})
}

func testReplace(t *testing.T, open Open) {
	db := fresh(t, open)
	update(t, db, func(w store.Writer) error { return fill(w, example()) })
	want := example()
	want.Providers[0].MaxVCPU++
	want.Functions[0].Deleting = true
	want.Functions[0].Provider = "other"
	want.Versions[0].State = controlplane.VersionFailed
	want.Instances[0].State = controlplane.InstanceDraining
	update(t, db, func(w store.Writer) error {
		return errors.Join(w.PutProvider(want.Providers[0]), w.PutFunction(want.Functions[0]),
			w.PutVersion(want.Versions[0]), w.PutInstance(want.Instances[0]))
	})
	if diff := cmp.Diff(want, snapshot(t, db)); diff != "" {
		t.Errorf("after replacing (-put +read):\n%s", diff)
	}
}

func testOrder(t *testing.T, open Open) {
	db := fresh(t, open)
	update(t, db, func(w store.Writer) error {
		for _, name := range []string{"b", "B", "a-1", "a_1", "a", "10", "9", "é"} {
			if err := errors.Join(w.PutProvider(controlplane.CapacityProvider{Name: controlplane.ProviderName(name)}),
				w.PutFunction(controlplane.Function{Name: controlplane.FunctionName(name)}),
				w.PutInstance(controlplane.Instance{ID: controlplane.InstanceID(name)})); err != nil {
				return err
			}
		}
		for _, q := range []controlplane.Qualifier{controlplane.LatestPublished, "10", "9", "100", "1"} {
			if err := errors.Join(w.PutVersion(controlplane.Version{Function: "b", Qualifier: q}),
				w.PutVersion(controlplane.Version{Function: "a", Qualifier: q})); err != nil {
				return err
			}
		}
		return nil
	})
	c := snapshot(t, db)
	names := []string{"10", "9", "B", "a", "a-1", "a_1", "b", "é"} // by bytes
	equal(t, "providers", names, c.Providers, func(p controlplane.CapacityProvider) string { return string(p.Name) })
	equal(t, "functions", names, c.Functions, func(f controlplane.Function) string { return string(f.Name) })
	equal(t, "instances", names, c.Instances, func(i controlplane.Instance) string { return string(i.ID) })
	qualified := func(v controlplane.Version) string { return string(v.Function) + ":" + string(v.Qualifier) }
	all := []string{
		"a:1", "a:9", "a:10", "a:100", "a:$LATEST.PUBLISHED",
		"b:1", "b:9", "b:10", "b:100", "b:$LATEST.PUBLISHED",
	}
	equal(t, "versions", all, c.Versions, qualified)
	view(t, db, func(r store.Reader) error {
		versions, err := r.Versions("b")
		equal(t, "versions of b", all[5:], versions, qualified)
		return err
	})
}

func equal[T any](t *testing.T, what string, want []string, values []T, name func(T) string) {
	t.Helper()
	var got []string
	for _, v := range values {
		got = append(got, name(v))
	}
	if !slices.Equal(want, got) {
		t.Errorf("%s in order %q, want %q", what, got, want)
	}
}

func testNotFound(t *testing.T, open Open) {
	db := fresh(t, open)
	check := func(r store.Reader) {
		_, err1 := r.Provider("none")
		_, err2 := r.Function("none")
		_, err3 := r.Version("none", "1")
		_, err4 := r.JoinToken("none")
		_, err5 := r.Instance("none")
		_, err6 := r.Alias("none", "live")
		_, err7 := r.Layer("none")
		_, err8 := r.LayerVersion("none", 1)
		for i, err := range []error{err1, err2, err3, err4, err5, err6, err7, err8} {
			if !errdefs.IsNotFound(err) {
				t.Errorf("getter %d: error %v, want NotFound", i, err)
			}
		}
	}
	view(t, db, func(r store.Reader) error {
		check(r)
		return nil
	})
	update(t, db, func(w store.Writer) error {
		check(w)
		return errors.Join(w.DeleteProvider("none"), w.DeleteFunction("none"), w.DeleteVersion("none", "1"),
			w.DeleteAlias("none", "live"), w.DeleteInstance("none"), w.DeleteJoinToken("none"),
			w.DeleteLayerVersion("none", 1))
	})
}

func testDeleteFunction(t *testing.T, open Open) {
	db := fresh(t, open)
	update(t, db, func(w store.Writer) error { return fill(w, example()) })
	update(t, db, func(w store.Writer) error {
		return errors.Join(w.PutVersion(controlplane.Version{Function: "stays", Qualifier: "1"}),
			w.PutAlias(controlplane.Alias{Function: "stays", Name: "live"}))
	})
	update(t, db, func(w store.Writer) error { return w.DeleteFunction("thumb") })
	c := snapshot(t, db)
	if len(c.Functions) != 0 {
		t.Errorf("functions left: %+v", c.Functions)
	}
	equal(t, "versions left", []string{"stays"}, c.Versions, func(v controlplane.Version) string { return string(v.Function) })
	equal(t, "aliases left", []string{"stays"}, c.Aliases, func(a controlplane.Alias) string { return string(a.Function) })
	if len(c.Providers) != 1 {
		t.Errorf("%d providers left, want 1", len(c.Providers))
	}
}

func testQualifier(t *testing.T, open Open) {
	db := fresh(t, open)
	for _, q := range []controlplane.Qualifier{"", "0", "01", "-1", "live", controlplane.Latest, "99999999999"} {
		err := db.Update(t.Context(), func(w store.Writer) error {
			return w.PutVersion(controlplane.Version{Function: "f", Qualifier: q})
		})
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("qualifier %q: error %v, want InvalidArgument", q, err)
		}
	}
}

func testEpoch(t *testing.T, open Open) {
	dir := t.TempDir()
	for want := uint64(1); want <= 3; want++ {
		db := open(t, dir)
		update(t, db, func(w store.Writer) error {
			got, err := w.NextEpoch()
			if got != want {
				t.Errorf("next epoch %d, want %d", got, want)
			}
			return err
		})
		if got := snapshot(t, db).Epoch; got != want {
			t.Errorf("epoch %d, want %d", got, want)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// example is one of everything, every field set.
func example() contents {
	at := time.Date(2026, 11, 23, 12, 0, 0, 123456789, time.UTC)
	config := controlplane.Config{
		Description: "Überschrift\x00\"'", RoleARN: "arn:aws:iam::1:role/r", Runtime: "provided.al2023",
		Handler: "bootstrap", PackageType: "Zip", MemoryMB: 512, TimeoutS: 3,
		Variables: map[string]string{"A": "1", "B": ""}, EphemeralMB: 512, Architecture: "arm64",
		TracingMode: "PassThrough", LogFormat: "JSON", AppLogLevel: "INFO", SysLogLevel: "WARN", LogGroup: "g",
		DeadLetterARN: "d", KMSKeyARN: "k", MaxConcurrency: 32, GiBPerVCPU: 2.5, OnDemand: true,
		Layers: []controlplane.AttachedLayer{{ARN: "arn:l:2", Code: controlplane.Code{SHA256: "22", Size: 3, Unpacked: 4}}},
		Image:  &controlplane.ImageConfig{EntryPoint: []string{"/e"}, Command: []string{"a", ""}, WorkingDirectory: "/w"},
	}
	code := controlplane.Code{SHA256: "00ff", Size: 1 << 40, Unpacked: 1 << 41, Image: "i", Resolved: "i@sha256:0"}
	version := controlplane.Version{
		Function: "thumb", Provider: "pool", Qualifier: "1", Revision: "r1", ARN: "arn:1", Config: config, Code: code,
		State: controlplane.VersionPending, ReasonCode: "Creating", Reason: "The function is being created.",
		Update: controlplane.UpdateInProgress, UpdateReasonCode: "c", UpdateReason: "u",
		Serving: &controlplane.Publication{Provider: "old", Revision: "r0", Config: config, Code: code},
		Scaling: &controlplane.ScalingConfig{Min: 1, Max: 2}, Applied: controlplane.ScalingConfig{Min: 3}, ModifiedAt: at,
	}
	published, latest := version, version
	published.Qualifier, published.Serving, published.Scaling = controlplane.LatestPublished, nil, nil
	latest.Qualifier = controlplane.Latest
	reserved := 7
	return contents{
		Providers: []controlplane.CapacityProvider{{
			Name: "pool", ARN: "arn:p", State: controlplane.ProviderActive, Zones: []controlplane.Zone{"b", "a"},
			SecurityGroups: []string{"sg"}, OperatorRoleARN: "role", Architecture: "arm64", AllowedTypes: []string{"m7g.large"},
			ExcludedTypes: []string{"x"}, MaxVCPU: 400, ScalingMode: "Manual",
			ScalingPolicies: []controlplane.ScalingPolicy{{Metric: "m", Target: 30.5}}, KMSKeyARN: "k",
			PropagateTags: map[string]string{"p": "q"}, PropagateTagMode: "Explicit", SystemLogLevel: "INFO", LogGroup: "l",
			Tags: map[string]string{"k": "v"}, CreatedAt: at, ModifiedAt: at.Add(time.Second),
		}},
		Functions: []controlplane.Function{{
			Name: "thumb", ARN: "arn:f", Provider: "pool", Latest: latest, NextNumber: 2,
			Deleting: false, Tags: map[string]string{"k": "v"}, CreatedAt: at,
			ReservedConcurrency: &reserved, RecursiveLoop: "Allow",
			EventInvoke: map[controlplane.Qualifier]controlplane.EventInvokeConfig{
				"live": {MaxAgeS: &reserved, MaxRetries: &reserved, OnSuccess: "s", OnFailure: "f", ModifiedAt: at},
			},
			RuntimeManagement: map[controlplane.Qualifier]controlplane.RuntimeManagement{"1": {UpdateOn: "Manual", VersionARN: "v"}},
			Policies: map[controlplane.Qualifier]controlplane.Policy{
				"1": {Revision: "p", Statements: []controlplane.Statement{{ID: "s", JSON: `{"a":1}`}}},
			},
		}},
		Versions: []controlplane.Version{version, published},
		Aliases: []controlplane.Alias{{
			Function: "thumb", Name: "live", ARN: "arn:a", Version: "1", Additional: "2", Weight: 0.25,
			Description: "d", Revision: "r",
		}},
		Layers: []controlplane.Layer{{Name: "l", NextNumber: 3}}, LayerVersions: []controlplane.LayerVersion{{
			Layer: "l", Number: 2, ARN: "arn:l:2", Code: code, Description: "d", LicenseInfo: "MIT", Runtimes: []string{"java21"},
			Architectures: []string{"arm64"}, CreatedAt: at,
			Policy: controlplane.Policy{Revision: "p", Statements: []controlplane.Statement{{ID: "s", JSON: `{}`}}},
		}},
		Instances: []controlplane.Instance{{
			ID: "i-1", Provider: "pool", Zone: "a", State: controlplane.InstanceRunning,
			Size: controlplane.Resources{CPU: 2000, Memory: 8 << 30}, Architecture: "arm64", Template: "t", Fleet: "local", CreatedAt: at,
		}},
	}
}

func fill(w store.Writer, c contents) error {
	var errs []error
	for _, p := range c.Providers {
		errs = append(errs, w.PutProvider(p))
	}
	for _, f := range c.Functions {
		errs = append(errs, w.PutFunction(f))
	}
	for _, v := range c.Versions {
		errs = append(errs, w.PutVersion(v))
	}
	for _, a := range c.Aliases {
		errs = append(errs, w.PutAlias(a))
	}
	for _, l := range c.Layers {
		errs = append(errs, w.PutLayer(l))
	}
	for _, v := range c.LayerVersions {
		errs = append(errs, w.PutLayerVersion(v))
	}
	for _, i := range c.Instances {
		errs = append(errs, w.PutInstance(i))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("filling the store: %w", err)
	}
	return nil
}
