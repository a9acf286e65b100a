# Everything a developer or CI runs. "make" lists it. CI calls these targets and
# nothing else.

SHELL       := /bin/bash -o pipefail
.DEFAULT_GOAL := help

GO          ?= go
TOOL        := $(GO) tool -modfile=deploy/tools/go.mod
AS_ROOT     := $(CURDIR)/deploy/scripts/as-root
CONTAINERD  := deploy/scripts/with-containerd
REPORT      := $(GO) run ./cmd/internal/testreport -allowed-skips deploy/ci/allowed-skips.txt
BINARIES    := hearth-control hearth-agent hearth hearth-init

# The version comes from git, through the build info Go stamps; where git does
# not answer (an archive, another owner's tree) binaries call themselves devel.
BUILDVCS    := $(shell git status --porcelain >/dev/null 2>&1 && echo true || echo false)
BUILDFLAGS  := -trimpath -buildvcs=$(BUILDVCS)

# What tests that run as root need of the caller's Go: its modules, and no look at
# a repository that belongs to somebody else.
ROOT_GO      = GOMODCACHE="$$($(GO) env GOMODCACHE)" GOFLAGS="$$($(GO) env GOFLAGS) -buildvcs=false"

# Packages with container tests; those tests carry the build tag node.
NODE_PKGS    = $(shell grep -rl --include='*_test.go' '^//go:build node' agent cmd controlplane sandbox 2>/dev/null | xargs -r -n1 dirname | sort -u | sed 's|^|./|')

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##—— build

.PHONY: build
build: ## static binaries in ./bin
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build $(BUILDFLAGS) -o bin/ $(BINARIES:%=./cmd/%)

.PHONY: runtimes
runtimes: ## runtime images in ./bin/runtimes, where packages can be had
	@for kind in base python node; do \
		deploy/runtimes/build $$kind bin/runtimes/$$kind.tar || [ $$? -eq 75 ] || exit 1; \
	done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
	find . -name '*.test' -not -path './.git/*' -type f -delete

.PHONY: generate
generate: ## rewrite generated code and documentation
	cd proto && $(GO) tool -modfile=../deploy/tools/go.mod buf generate
	cd proto && $(GO) tool -modfile=../deploy/tools/go.mod buf build -o descriptors.binpb
	$(MAKE) build
	$(GO) run ./cmd/internal/configdoc -o docs/configuration.md bin/hearth-control bin/hearth-agent bin/hearth
	$(GO) run ./cmd/internal/apidoc -o docs/api.md

##—— test

.PHONY: deps
deps: ## install what containers need (apt or dnf), where it is missing
	@deploy/scripts/install-deps run

.PHONY: unit
unit: ## tests that need no root and no network
	$(GO) test ./...

.PHONY: test
test: deps build ## everything: unit tests, and container tests as root
	@nodes="$(NODE_PKGS)"; \
	if [ -z "$$nodes" ]; then echo "no container tests found" >&2; exit 1; fi; \
	$(CONTAINERD) $(MAKE) --no-print-directory test-events | $(REPORT)

# The unit tests, then those of the packages with container tests as root. The
# events of both runs go to one report; stderr is the toolchain's.
.PHONY: test-events
test-events:
	@rc=0; \
	$(GO) test -json ./... || rc=1; \
	$(ROOT_GO) $(GO) test -json -tags node -count=1 -p 1 -timeout 15m -exec $(AS_ROOT) $(NODE_PKGS) || rc=1; \
	exit $$rc

.PHONY: node
node: deps build ## container tests only; PKG=./sandbox/containerd and RUN=regexp narrow it
	$(ROOT_GO) $(CONTAINERD) $(GO) test -tags node -count=1 -p 1 -timeout 15m -v -exec $(AS_ROOT) $(if $(RUN),-run '$(RUN)') $(or $(PKG),$(NODE_PKGS))

.PHONY: race
race: ## unit tests under the race detector
	@deploy/scripts/install-deps test
	CGO_ENABLED=1 $(GO) test -race ./...

.PHONY: stress
stress: ## the tests of PKG=./… fifty times under the race detector
	@if [ -z "$(PKG)" ]; then echo 'usage: make stress PKG=./agent/… [RUN=regexp]' >&2; exit 2; fi
	CGO_ENABLED=1 $(GO) test -race -count=50 -timeout 20m $(if $(RUN),-run '$(RUN)') $(PKG)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (10s); their seeds run with make unit
	@deploy/scripts/fuzz $(or $(FUZZTIME),10s)

##—— check

.PHONY: check
check: fmt lint vet arch current race ## what CI holds a change to, besides the tests

.PHONY: fmt
fmt: ## formatting is gofumpt's and goimports'
	$(TOOL) golangci-lint fmt --diff
	cd proto && $(GO) tool -modfile=../deploy/tools/go.mod buf format --diff --exit-code

.PHONY: lint
lint: ## golangci-lint and buf lint
	$(TOOL) golangci-lint run --build-tags node
	cd proto && $(GO) tool -modfile=../deploy/tools/go.mod buf lint

.PHONY: vet
vet: ## go vet, container tests included
	$(GO) vet -tags node ./...

.PHONY: arch
arch: ## who imports whom, and what packages are called
	$(GO) test ./cmd/internal/arch

.PHONY: current
current: build ## generated code and documentation are what make generate writes
	deploy/scripts/generated-is-current
	$(GO) run ./cmd/internal/configdoc -check -o docs/configuration.md bin/hearth-control bin/hearth-agent bin/hearth
	$(GO) run ./cmd/internal/apidoc -check -o docs/api.md

.PHONY: breaking
breaking: ## no change to a proto breaks AGAINST (a git ref, main unless given)
	cd proto && $(GO) tool -modfile=../deploy/tools/go.mod buf breaking --against '../.git#ref=$(or $(AGAINST),main),subdir=proto'

##—— see it

.PHONY: demo
demo: deps build ## a real function on three instances, invoked 200 times; KEEP=1 leaves it running
	KEEP=$(KEEP) $(CONTAINERD) $(GO) run ./cmd/internal/demo $(if $(KEEP),-keep)

.PHONY: bench-overload
bench-overload: deps build ## goodput of one environment at up to five times its capacity; plots in bin/bench
	$(ROOT_GO) $(CONTAINERD) $(GO) run -exec $(AS_ROOT) ./cmd/internal/bench/overload

.PHONY: bench
bench: deps build ## invoke latency and throughput at concurrency 1, 16, 32
	$(ROOT_GO) $(CONTAINERD) $(GO) run -exec $(AS_ROOT) ./cmd/internal/bench

.PHONY: bench-start
bench-start: deps build ## start of environments, with and without spares, and the agent's memory with fifty; writes bin/bench/start.json
	$(ROOT_GO) $(CONTAINERD) $(GO) run -exec $(AS_ROOT) ./cmd/internal/bench -start

.PHONY: bench-peers
bench-peers: deps build ## against what RIE and QUEUE_PROXY name, an echo and a reverse proxy, in turn; writes bin/bench/peers.json
	$(ROOT_GO) $(CONTAINERD) $(GO) run -exec $(AS_ROOT) ./cmd/internal/bench -peers -rie=$(RIE) -queue-proxy=$(QUEUE_PROXY)
