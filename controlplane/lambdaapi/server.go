// Package lambdaapi serves the AWS Lambda REST API: the paths, status codes,
// shapes, error names and messages that AWS's SDKs and tools expect. It is the
// only package that knows them. Beneath it everything speaks the vocabulary of
// controlplane.
//
// # Model
//
// Wire types are those of aws-sdk-go-v2/service/lambda; one codec, led by the
// SDK's schemas, reads requests into them and writes responses from them. One
// table names every operation of the service: those served have a function, the
// others answer 501 NotImplementedException with the operation's name, which no
// AWS SDK retries. One table turns error classes into exceptions.
//
// A change is validated, then written to the store in one Update, then
// announced by Config.Changed, then answered. States are moved on by the
// reconcile loop. An invoke never touches the store: the Invoker resolves it.
//
// The package is as large as the API: one file for each of its resources
// (functions, versions, aliases, tags, providers, …), which do not know each
// other, over a few that know none (front and body: HTTP; route, codec and
// constraints: requests; errors).
//
// # Differences from AWS
//
//   - A function created without a CapacityProviderConfig runs on demand: on
//     DefaultProvider, by default Lambda's rules, with $LATEST invocable. It has
//     at least one environment at all times, each runs one invoke at a time, and
//     its architecture is the provider's unless it asks for one. Without a
//     DefaultProvider it is refused. Its delete is answered before it is gone;
//     who makes it anew waits, for ten seconds.
//   - Unless Strict: memory below 2,048 MB, fractional vCPU, any ratio from 2 to
//     8 GiB per vCPU, a minimum of 0 environments with a maximum above 0, and any
//     runtime that has an image.
//   - A function or version being deleted is still described, with State
//     Deleting, until its environments are gone; then it is not found. A second
//     delete of it is accepted. A function on demand is not found at once.
//   - An invoke of a function on demand that finds no environment free waits for
//     one, a minute at most; so does one of a version that was just published.
//   - A function on a capacity provider may have a Timeout of up to 5,400 seconds,
//     as in AWS's model, where those above 900 are for asynchronous invokes. Who
//     waits for an invoke waits 900 at most.
//   - LogType Tail is answered for functions on capacity providers too.
//   - An invoke of a version that is not Active is a ResourceConflictException
//     that says the state. The Reason of a throttle is concurrency, cpu, memory
//     or disk, what the environments that refused it were short of;
//     ReservedFunctionConcurrentInvocationLimitExceeded as at AWS.
//   - Code in S3 may be as large zipped as unzipped.
//   - An image may be in any registry. It is resolved when it is given if its
//     registry answers, within five seconds; else the agents pull it by its tag,
//     and CodeSha256 is left out.
//   - UpdateCapacityProvider takes every member of CreateCapacityProvider except
//     Tags, which only those can send who do without an SDK. The lists of
//     InstanceRequirements are replaced together, and the architecture cannot
//     change while functions are attached. Instances made otherwise are replaced.
//   - The Location of GetFunction is a URL of this server, on the host that was
//     asked, and valid for ten minutes or until the server restarts.
//   - Tags and permissions do not change the RevisionId of a function: that would
//     roll it. A policy has one of its own.
//   - The account has no limit of invokes at once or of code in all, and
//     GetAccountSettings says so with the greatest numbers there are.
//   - A query that cannot be decoded is a MalformedHttpRequestException, a
//     parameter given twice with different values a SerializationException. So
//     are lists and maps with more than 10,000 entries in all.
//   - Without a Verifier any credentials are accepted. With one, every key may do
//     everything. UNSIGNED-PAYLOAD and bodies in signed chunks are accepted too,
//     and X-Amz-Client-Context, X-Amz-Invocation-Type and X-Amz-Log-Type must be
//     signed if they are there. Locations need no signature but their own.
//
// # Bounds
//
// A request is refused before its body is read when BodyMemory has no room for
// it: 429 TooManyRequestsException with Reason CallerRateLimitExceeded and
// Retry-After, on a connection that stays usable. A header may have 64 KiB and
// take 10 s; each 640 KiB of a body 10 s, else 408 RequestTimeoutException; each
// 640 KiB of an answer 30 s. 10,000 connections are served, those not used for
// two minutes are closed. What net/http refuses by itself is answered as JSON.
package lambdaapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"regexp"

	"github.com/aws/aws-sdk-go-v2/service/lambda/types"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/sigv4"
	"github.com/hearth-compute/hearth/controlplane/store"
	"github.com/hearth-compute/hearth/metrics"
)

// Invoker runs invocations: the router. Errors are the typed ones of
// controlplane, or have a class.
type Invoker interface {
	Invoke(ctx context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error)
}

// Artifacts keeps code archives.
type Artifacts interface {
	// Put keeps content durably and returns its SHA-256 in hexadecimal and size.
	Put(ctx context.Context, content []byte) (sha string, size int64, err error)
	// Open returns the archive of that digest, which the caller closes. Errors:
	// NotFound.
	Open(ctx context.Context, sha string) (io.ReadCloser, error)
}

// Buckets are where users keep code archives.
type Buckets interface {
	// Read returns an object whole. Errors: *controlplane.ObjectError when it
	// cannot be had or is larger than limit.
	Read(ctx context.Context, o controlplane.Object, limit int64) ([]byte, error)
}

// Images finds out what image references name.
type Images interface {
	// Resolve returns ref by digest. Errors: NotFound when its registry says that
	// there is no such image; any other means that it could not be found out.
	Resolve(ctx context.Context, ref string) (string, error)
}

// Config is what a Server needs.
type Config struct {
	// AccountID, 12 digits, and Region are those of every ARN. Required.
	AccountID, Region string
	// Strict refuses what AWS refuses, see the package's differences.
	Strict bool
	// DefaultProvider is where functions that name no capacity provider run, on
	// demand. Empty means that such functions are refused.
	DefaultProvider controlplane.ProviderName
	// DB keeps what users ask for. Required.
	DB store.DB
	// Artifacts keeps function code. Required.
	Artifacts Artifacts
	// Buckets has code in S3. Nil refuses it.
	Buckets Buckets
	// Images resolves images when they are given. Nil leaves that to the agents.
	Images Images
	// Invoker runs invocations. Required.
	Invoker Invoker
	// Changed is called after each write, before it is answered, and returns
	// when routing includes the write, or when ctx is done. Nil means nobody cares.
	Changed func(ctx context.Context)
	// Runtimes reports whether a runtime has an image. Nil means that every
	// runtime AWS knows has.
	Runtimes func(name string) bool
	// BodyMemory is how many bytes the bodies of requests and what is made of them
	// may take at once; a request for which there is no room, also because of
	// answers that clients have not read yet, is a TooManyRequestsException. What
	// answers take is for the Invoker to bound. At least, and unless it is set,
	// LeastBodyMemory.
	BodyMemory int64
	// Verifier verifies who calls. Nil believes everybody.
	Verifier *sigv4.Verifier
	// Traces makes the spans of invokes; nil makes none.
	Traces *metrics.Traces
	// Logger gets what clients are not told. Required.
	Logger *slog.Logger
}

func (c *Config) validate() error {
	var faults []error
	if !regexp.MustCompile(`^\d{12}$`).MatchString(c.AccountID) {
		faults = append(faults, fmt.Errorf("account id %q is not 12 digits", c.AccountID))
	}
	if !regionPattern.MatchString(c.Region) {
		faults = append(faults, fmt.Errorf("region %q is not like us-east-1", c.Region))
	}
	if c.BodyMemory == 0 {
		c.BodyMemory = LeastBodyMemory
	}
	if c.BodyMemory < LeastBodyMemory {
		faults = append(faults, fmt.Errorf("%d bytes for bodies are less than %d", c.BodyMemory, LeastBodyMemory))
	}
	for name, missing := range map[string]bool{
		"DB": c.DB == nil, "Artifacts": c.Artifacts == nil, "Invoker": c.Invoker == nil, "Logger": c.Logger == nil,
	} {
		if missing {
			faults = append(faults, errors.New(name+" is missing"))
		}
	}
	return errors.Join(faults...)
}

// Server is the API as an http.Handler. It may be called from everywhere at
// once.
type Server struct {
	cfg Config
	mux *http.ServeMux
	// bodies bounds what requests may take of memory at once.
	bodies budget
	// fetching has a place for the one request that reads an archive from a bucket.
	fetching  chan struct{}
	locations locations
	// payload is what the body of an invoke may be, streamPayload that of one whose
	// answer is streamed.
	payload, streamPayload bounds
	// strangers are those whose requests do not verify.
	strangers strangers
	// http serves when Serve is used.
	http *http.Server
}

// New returns a Server. Its error names every fault of cfg.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("making the Lambda API: %w", err)
	}
	if cfg.Changed == nil {
		cfg.Changed = func(context.Context) {}
	}
	if cfg.Runtimes == nil {
		cfg.Runtimes = known
	}
	return newServer(cfg), nil
}

func newServer(cfg Config) *Server {
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), bodies: budget{limit: cfg.BodyMemory},
		fetching: make(chan struct{}, 1), locations: newLocations(),
		payload:       bounds{operation: invokeOperation, limit: maxPayload, weight: weightPayload, exception: "RequestTooLargeException"},
		streamPayload: bounds{operation: streamOperation, limit: maxPayload, weight: weightPayload, exception: "RequestTooLargeException"},
	}
	s.http = s.httpServer()
	s.route(s.operations())
	s.mux.HandleFunc("GET "+locationPath+"{sha}", s.download)
	return s
}

// update writes and announces.
func (s *Server) update(ctx context.Context, fn func(store.Writer) error) error {
	if err := s.cfg.DB.Update(ctx, fn); err != nil {
		return err
	}
	s.cfg.Changed(ctx)
	return nil
}

// known reports whether AWS has a runtime of that name.
func known(name string) bool {
	for _, r := range types.Runtime("").Values() {
		if string(r) == name {
			return true
		}
	}
	return false
}
