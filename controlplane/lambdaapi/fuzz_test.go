package lambdaapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/lambda/schemas"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/traits"
	"gocloud.dev/blob/memblob"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/artifact"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
	"github.com/hearth-compute/hearth/controlplane/store"
)

// fuzzed is an API over a store that has a provider "pool" and a function "f"
// with a version.
func fuzzed(f *testing.F) http.Handler {
	f.Helper()
	db := emptyDB(f)
	artifacts := artifact.New(memblob.OpenBucket(nil))
	f.Cleanup(func() { _ = artifacts.Close() })
	api, err := lambdaapi.New(lambdaapi.Config{
		AccountID: account, Region: region, DB: db, Artifacts: artifacts, Logger: slog.New(faults{f}),
		DefaultProvider: "pool",
		Invoker: invoking(func(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
			for _, text := range []string{req.ContentType, req.TraceID, req.ClientContext, req.InvokedARN} {
				if !utf8.ValidString(text) {
					panic("an invoke that cannot be sent: " + text)
				}
			}
			return controlplane.InvokeResult{Payload: req.Payload}, nil
		}),
	})
	if err != nil {
		f.Fatal(err)
	}
	ask := func(method, path, body string) {
		w := httptest.NewRecorder()
		api.ServeHTTP(w, httptest.NewRequestWithContext(f.Context(), method, path, strings.NewReader(body)))
		if w.Code >= http.StatusBadRequest {
			f.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
		}
	}
	ask("POST", providersPath, providerBody)
	err = db.Update(f.Context(), func(w store.Writer) error {
		p, err := w.Provider("pool")
		p.State = controlplane.ProviderActive
		return errors.Join(err, w.PutProvider(p))
	})
	if err != nil {
		f.Fatal(err)
	}
	ask("POST", functionsPath, functionBody)
	ask("POST", functionsPath+"/f/versions", "")
	return api
}

const (
	providerBody = `{"CapacityProviderName":"pool","VpcConfig":{"SubnetIds":["a"],"SecurityGroupIds":[]},` +
		`"PermissionsConfig":{"CapacityProviderOperatorRoleArn":"` + role + `"}}`
	functionBody = `{"FunctionName":"f","Role":"` + role + `","Runtime":"provided.al2023","Handler":"bootstrap",` +
		`"CapacityProviderConfig":{"LambdaManagedInstancesCapacityProviderConfig":{"CapacityProviderArn":"` + providerBase + `pool"}},` +
		`"Code":{"ZipFile":"UEsDBBQACAAIAAAAAAAAAAAAAAAAAAAAAAAJAAAAYm9vdHN0cmFwys9LBQQAAP//UEsHCHtZp3kJAAAAAwAAAFBLAQIUABQACAAIAAAAAAB7Wad5CQAAAAMAAAAJAAAAAAAAAAAAAAAAAAAAAABib290c3RyYXBQSwUGAAAAAAEAAQA3AAAAQAAAAAAA"}}`
)

// faults fails the test on what the service calls its own fault.
type faults struct{ f *testing.F }

func (faults) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }
func (faults) Handle(_ context.Context, r slog.Record) error {
	var text strings.Builder
	text.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		text.WriteString(" " + a.String())
		return true
	})
	panic(text.String())
}
func (h faults) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h faults) WithGroup(string) slog.Handler      { return h }

// FuzzAPIRequest asks the whole API for anything. Whatever is asked, the answer
// has the form of AWS's and nothing is the service's fault.
func FuzzAPIRequest(f *testing.F) {
	api := fuzzed(f)
	f.Add("POST", providersPath, "", "", []byte(strings.Replace(providerBody, "pool", "p2", 1)))
	f.Add("POST", functionsPath, "", "", []byte(strings.Replace(functionBody, `"f"`, `"g"`, 1)))
	f.Add("POST", functionsPath+"/f/invocations", "Qualifier=1", "X-Amz-Invocation-Type: DryRun", []byte(`{"a":[1,"\ud800"]}`))
	f.Add("POST", functionsPath+"/f/invocations", "Qualifier=%zz", "X-Amz-Client-Context: e30=", []byte{0xff})
	f.Add("POST", "/2018-10-31/layers/l/versions", "", "", []byte(`{"Content":`+functionBody[strings.Index(functionBody, `{"ZipFile"`):]))
	f.Add("POST", "/2018-10-31/layers/l/versions/1/policy", "RevisionId=x", "", []byte(`{"StatementId":"a","Action":"lambda:GetLayerVersion","Principal":"*"}`))
	f.Add("GET", "/2018-10-31/layers", "find=LayerVersion&Arn="+layerBase+"l:99999999999999999999", "", []byte{})
	f.Add("GET", "/2018-10-31/layers/"+layerBase+"l/versions", "CompatibleRuntime=java21&MaxItems=1", "", []byte{})
	f.Add("GET", functionsPath+"/", "Marker=%00&MaxItems=-1", "Content-Type: \xff", []byte("{}"))
	f.Add("PUT", functionsPath+"/f/configuration", "", "", []byte(`{"Environment":{"Variables":{"AA":"1"}},"Timeout":5,"MemorySize":4096}`))
	f.Add("PUT", functionsPath+"/f/configuration", "", "", []byte(`{"Description":"\u0000","Layers":["",null],"VpcConfig":{}}`))
	label := regexp.MustCompile(`\{[^}]+\}`)
	for _, op := range operations() {
		t, _ := smithy.SchemaTrait[*traits.HTTP](op)
		path, query, _ := strings.Cut(t.URI, "?")
		f.Add(t.Method, label.ReplaceAllString(path, "f"), query, "", []byte("{}"))
	}
	f.Fuzz(func(t *testing.T, method, path, query, header string, body []byte) {
		r := request(t, method, path, query, header, body)
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		got := said{status: w.Code, header: w.Header(), exception: w.Header().Get("X-Amzn-Errortype"), body: w.Body.String()}
		if got.header.Get("X-Amzn-Requestid") == "" || !utf8.ValidString(got.exception) {
			t.Fatalf("got %+v", got)
		}
		switch {
		case w.Code == http.StatusInternalServerError:
			t.Fatalf("our fault: %+v", got)
		case w.Code >= http.StatusBadRequest && r.Method != http.MethodHead:
			wellSaid(t, got)
		case w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) && !strings.Contains(r.URL.Path, "invoc"):
			t.Fatalf("no JSON: %+v", got)
		}
	})
}

// request is one as net/http would hand on, or the input is skipped.
func request(t *testing.T, method, path, query, header string, body []byte) *http.Request {
	t.Helper()
	if query != "" {
		path += "?" + query
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		t.Skip()
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://x/", strings.NewReader(string(body)))
	if err != nil {
		t.Skip()
	}
	r.URL, r.RequestURI = u, path
	if name, value, ok := strings.Cut(header, ":"); ok {
		r.Header[http.CanonicalHeaderKey(name)] = []string{strings.TrimSpace(value)}
	}
	if len(body) > 0 && body[0] == 'C' { // as if it were sent in chunks
		r.ContentLength, r.Body = -1, io.NopCloser(strings.NewReader(string(body[1:])))
	}
	return r
}

// operations are those the API has most to say to.
func operations() []*smithy.Schema {
	return []*smithy.Schema{
		schemas.CreateAlias, schemas.UpdateAlias, schemas.ListAliases, schemas.DeleteAlias, schemas.GetFunction,
		schemas.UpdateFunctionCode, schemas.PublishVersion, schemas.ListVersionsByFunction, schemas.DeleteFunction,
		schemas.PutFunctionScalingConfig, schemas.GetFunctionScalingConfig, schemas.UpdateCapacityProvider,
		schemas.DeleteCapacityProvider, schemas.ListFunctionVersionsByCapacityProvider, schemas.TagResource,
		schemas.UntagResource, schemas.ListTags, schemas.GetAccountSettings, schemas.PutFunctionRecursionConfig,
		schemas.PutRuntimeManagementConfig, schemas.PutFunctionEventInvokeConfig, schemas.UpdateFunctionEventInvokeConfig,
		schemas.ListFunctionEventInvokeConfigs, schemas.PutFunctionConcurrency, schemas.GetLayerVersionByArn,
	}
}
