package up

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestAStoreThatIsMeantToLastIsNotTaken: hearth up removes what it finds when
// it stops, so it refuses what it was not made for.
func TestAStoreThatIsMeantToLastIsNotTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		store   bool
		lock    string // content of the lock file a killed run left; empty means none
		refused bool
	}{
		{"an empty directory", false, "", false},
		{"a hearth-control that ran by itself", true, "", true},
		{"a run that was killed", true, "4711\n", false},
		{"a run with --keep-data that was killed", true, "4711 keep-data\n", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			if c.store {
				must(os.WriteFile(filepath.Join(dir, "hearth.db"), []byte("rows"), 0o600))
			}
			if c.lock != "" {
				must(os.WriteFile(filepath.Join(dir, lockFileName), []byte(c.lock), 0o600))
			}
			cfg := testConfig(dir, "127.0.0.1:0")
			if err := disposable(dir); errdefs.IsFailedPrecondition(err) != c.refused {
				t.Errorf("got %v, want refused %v", err, c.refused)
			}
			if !c.refused {
				return
			}
			if err := Run(t.Context(), cfg); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Run: got %v, want FailedPrecondition", err)
			}
			if data, err := os.ReadFile(filepath.Join(dir, "hearth.db")); err != nil || string(data) != "rows" {
				t.Errorf("the store after the refusal: %q, %v", data, err)
			}
		})
	}
}

// TestTheLockSaysThatTheStoreIsKept, for the run after one that was killed.
func TestTheLockSaysThatTheStoreIsKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	must(os.WriteFile(filepath.Join(dir, "hearth.db"), nil, 0o600))
	unlock, err := lockDir(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := disposable(dir); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v, want FailedPrecondition", err)
	}
	unlock()
}
