// Package e2e tests the whole system: in one process over fakes, and, with the
// build tag node, the real binaries on real containers.
package e2e
