package lambdaapi_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/hearth-compute/hearth/controlplane"
	"github.com/hearth-compute/hearth/controlplane/lambdaapi"
)

// send makes a plain HTTP request, as no SDK would.
func (s *system) send(method, path string, body io.Reader, headers ...string) (answer, string) {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, s.url+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = w.Body.Close() }()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if w.Header.Get("X-Amzn-Requestid") == "" {
		s.t.Errorf("%s %s: no request id", method, path)
	}
	return answer{w.StatusCode, w.Header}, string(text)
}

// answer is a response without its body.
type answer struct {
	StatusCode int
	Header     http.Header
}

const (
	functionsPath = "/2015-03-31/functions"
	providersPath = "/2025-11-30/capacity-providers"
)

func TestWireErrorsAreShapedLikeAWS(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	at := "capacityProviderConfig.lambdaManagedInstancesCapacityProviderConfig"
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, answer       string
	}{
		"an unclean path":     {"GET", "//2015-03-31/functions", "", 404, "UnknownOperationException", `{"Type":"User","message":"The request is no operation of the Lambda API."}`},
		"dots":                {"GET", functionsPath + "/../x", "", 404, "UnknownOperationException", `{"Type":"User","message":"The request is no operation of the Lambda API."}`},
		"an unknown path":     {"GET", "/2015-03-31/nothing", "", 404, "UnknownOperationException", `{"Type":"User","message":"The request is no operation of the Lambda API."}`},
		"the root":            {"GET", "/", "", 404, "UnknownOperationException", `{"Type":"User","message":"The request is no operation of the Lambda API."}`},
		"a wrong method":      {"PATCH", functionsPath + "/f", "", 405, "UnknownOperationException", `{"Type":"User","message":"The method PATCH is not allowed for this path."}`},
		"not in the scope":    {"POST", "/2021-10-31/functions/f/url", "{}", 501, "NotImplementedException", `{"Type":"Service","message":"The operation CreateFunctionUrlConfig is not supported by this service."}`},
		"told by query":       {"GET", "/2018-10-31/layers?find=LayerVersion&Arn=" + layerBase + "l:1", "", 404, "ResourceNotFoundException", `{"Message":"The resource you requested does not exist.","Type":"User"}`},
		"told by no query":    {"GET", "/2018-10-31/layers?MaxItems=0", "", 400, "ValidationException", `{"Type":"User","message":"1 validation error detected: Value '0' at 'maxItems' failed to satisfy constraint: Member must have value greater than or equal to 1"}`},
		"broken JSON":         {"POST", functionsPath, "{", 400, "SerializationException", `{"Type":"User","message":"Could not parse request body into json."}`},
		"a list for a struct": {"POST", functionsPath, "[]", 400, "SerializationException", `{"Type":"User","message":"Start of structure or map not found where expected."}`},
		"a number for a text": {"POST", functionsPath, `{"Role":1}`, 400, "SerializationException", `{"Type":"User","message":"NUMBER_VALUE can not be converted to a String"}`},
		"a text for a number": {"POST", functionsPath, `{"Timeout":"3"}`, 400, "SerializationException", `{"Type":"User","message":"STRING_VALUE can not be converted to an Integer"}`},
		"a text for a bool":   {"POST", functionsPath, `{"Publish":"yes"}`, 400, "SerializationException", `{"Type":"User","message":"STRING_VALUE can not be converted to a Boolean"}`},
		"a struct for a text": {"POST", functionsPath, `{"Role":{}}`, 400, "SerializationException", `{"Type":"User","message":"Start of structure or map found where not expected."}`},
		"a text for a list":   {"POST", functionsPath, `{"Architectures":"arm64"}`, 400, "SerializationException", `{"Type":"User","message":"Expected list or null"}`},
		"half a number":       {"POST", functionsPath, `{"Timeout":1.5}`, 400, "SerializationException", `{"Type":"User","message":"NUMBER_VALUE can not be converted to an Integer"}`},
		"a blob of no base64": {"POST", functionsPath, `{"Code":{"ZipFile":"??"}}`, 400, "SerializationException", `{"Type":"User","message":"Blob is not valid base64"}`},
		"a text in the query": {"GET", functionsPath + "?MaxItems=x", "", 400, "SerializationException", `{"Type":"User","message":"STRING_VALUE can not be converted to an Integer"}`},
		"nothing at all": {
			"POST", functionsPath, "", 400, "ValidationException",
			`{"Type":"User","message":"2 validation errors detected: Value null at 'role' failed to satisfy constraint: Member must not be null; Value null at 'code' failed to satisfy constraint: Member must not be null"}`,
		},
		"no managed instances config": {
			"PUT", functionsPath + "/f/configuration", `{"CapacityProviderConfig":{}}`, 400, "ValidationException",
			`{"Type":"User","message":"1 validation error detected: Value null at '` + at + `' failed to satisfy constraint: Member must not be null"}`,
		},
		"a spelling of its own": {
			"GET", functionsPath + "/none", "", 404, "ResourceNotFoundException",
			`{"Message":"Function not found: ` + functionBase + `none","Type":"User"}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, body := s.send(c.method, c.path, strings.NewReader(c.body))
			if w.StatusCode != c.status || w.Header.Get("X-Amzn-Errortype") != c.code || body != c.answer {
				t.Errorf("got %d %s\n%s\nwant %d %s\n%s", w.StatusCode, w.Header.Get("X-Amzn-Errortype"), body, c.status, c.code, c.answer)
			}
			if ct := w.Header.Get("Content-Type"); ct != "application/json" {
				t.Errorf("content type %q", ct)
			}
		})
	}
}

func TestPathsOfOlderClientsAndEscapedARNsAreTaken(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	for _, path := range []string{
		functionsPath + "/", functionsPath + "/f", functionsPath + "/f/",
		functionsPath + "/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Afunction%3Af",
		functionsPath + "/arn:aws:lambda:us-east-1:123456789012:function:f",
		functionsPath + "/f%3A%24LATEST/configuration", providersPath + "/arn%3Aaws%3Alambda%3Aus-east-1%3A123456789012%3Acapacity-provider%3Apool",
	} {
		if w, body := s.send("GET", path, http.NoBody); w.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, w.StatusCode, body)
		}
	}
	for _, path := range []string{functionsPath + "/a%2Fb", functionsPath + "/f%2F", functionsPath + "/%20"} {
		if w, body := s.send("GET", path, http.NoBody); w.StatusCode != http.StatusBadRequest && w.StatusCode != http.StatusNotFound {
			t.Errorf("GET %s: %d %s", path, w.StatusCode, body)
		}
	}
}

func TestTheBodyNeverSaysWhatThePathSays(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	must[*lambda.CreateFunctionOutput](t)(s.CreateFunction(t.Context(), functionInput(t, "g")))
	w, body := s.send("PUT", functionsPath+"/f/configuration", strings.NewReader(
		`{"FunctionName":"g","Description":"new","Unknown":{"x":[1]},"Timeout":null}`))
	if w.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", w.StatusCode, body)
	}
	for name, want := range map[string]string{"f": "new", "g": ""} {
		got := must[*lambda.GetFunctionConfigurationOutput](t)(s.GetFunctionConfiguration(t.Context(),
			&lambda.GetFunctionConfigurationInput{FunctionName: &name}))
		if *got.Description != want || *got.Timeout != 3 {
			t.Errorf("%s has description %q and timeout %d", name, *got.Description, *got.Timeout)
		}
	}
}

func TestResponsesHaveWhatIsSetAndNothingElse(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil).withFunction()
	_, body := s.send("GET", functionsPath+"/f/configuration", http.NoBody)
	var members map[string]any
	if err := json.Unmarshal([]byte(body), &members); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ResultMetadata", "VpcConfig", "SnapStart", "StateReason", "KMSKeyArn", "Layers", "Environment"} {
		if v, ok := members[name]; ok {
			t.Errorf("%s is %v", name, v)
		}
	}
	if strings.Contains(body, "null") {
		t.Errorf("a null in %s", body)
	}
	config, _ := members["CapacityProviderConfig"].(map[string]any)
	if !strings.Contains(body, `"ExecutionEnvironmentMemoryGiBPerVCpu":2.0`) || len(config) != 1 {
		t.Errorf("a ratio that is no double in %s", body)
	}
}

func TestPayloadsUpTo6291456BytesPass(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	s.invoker.echo = true
	payload := bytes.Repeat([]byte("x"), 6291456)
	payload[0], payload[len(payload)-1] = '"', '"'
	out := must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: payload}))
	if !bytes.Equal(out.Payload, payload) {
		t.Errorf("%d bytes came back", len(out.Payload))
	}
	calls := s.invoker.calls
	_, err := s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), Payload: append(payload, ' ')})
	refused(t, err, "RequestTooLargeException", 413, "Request must be smaller than 6291456 bytes for the InvokeFunction operation")
	w, body := s.send("POST", functionsPath+"/f/invocations", io.MultiReader(bytes.NewReader(payload), strings.NewReader(" "))) // chunked
	if w.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(body, "smaller than 6291456 bytes") {
		t.Errorf("chunked: %d %s", w.StatusCode, body)
	}
	if w, _ := s.send("POST", functionsPath+"/f/invocations", io.MultiReader(bytes.NewReader(payload))); w.StatusCode != http.StatusOK {
		t.Errorf("chunked, of the greatest size: %d", w.StatusCode)
	}
	if n := s.invoker.calls - calls; n != 1 {
		t.Errorf("the router was asked %d times, want once", n)
	}
}

func TestOtherRequestsAreBoundedToo(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	w, body := s.send("POST", providersPath, bytes.NewReader(make([]byte, 1<<20+1)))
	if w.StatusCode != 413 || w.Header.Get("X-Amzn-Errortype") != "RequestEntityTooLargeException" ||
		!strings.Contains(body, "Request must be smaller than 1048576 bytes for the CreateCapacityProvider operation") {
		t.Errorf("%d %s", w.StatusCode, body)
	}
	w, body = s.send("POST", functionsPath, io.MultiReader(bytes.NewReader(make([]byte, 69905068)))) // chunked
	if w.StatusCode != 413 || !strings.Contains(body, "Request must be smaller than 69905067 bytes for the CreateFunction operation") {
		t.Errorf("%d %s", w.StatusCode, body)
	}
}

func TestAnInvokeCarriesItsContext(t *testing.T) {
	t.Parallel()
	s := newSystem(t, nil)
	s.invoker.set(controlplane.InvokeResult{Executed: "$LATEST.PUBLISHED", FunctionError: "Unhandled", Payload: []byte(`{"errorMessage":"x"}`)}, nil)
	context64 := base64.StdEncoding.EncodeToString([]byte(`{"custom":{"a":1}}`))
	w, body := s.send("POST", functionsPath+"/123456789012:function:f/invocations?Qualifier=%24LATEST.PUBLISHED", http.NoBody,
		"X-Amz-Client-Context", context64, "X-Amzn-Trace-Id", "Root=1-2-3", "Content-Type", "application/json")
	got := s.invoker.seen()
	want := controlplane.InvokeRequest{
		RequestID: w.Header.Get("X-Amzn-Requestid"), Function: "f", Qualifier: "$LATEST.PUBLISHED",
		InvokedARN: functionBase + "f:$LATEST.PUBLISHED", Payload: []byte("{}"), ContentType: "application/json",
		ClientContext: `{"custom":{"a":1}}`, TraceID: "Root=1-2-3",
	}
	same(t, "request", want, got)
	if w.StatusCode != 200 || body != `{"errorMessage":"x"}` || w.Header.Get("X-Amz-Function-Error") != "Unhandled" ||
		w.Header.Get("X-Amz-Executed-Version") != "$LATEST.PUBLISHED" || w.Header.Get("Content-Type") != "application/json" {
		t.Errorf("answer %d %v %s", w.StatusCode, w.Header, body)
	}
	out := must[*lambda.InvokeOutput](t)(s.Invoke(t.Context(), &lambda.InvokeInput{FunctionName: aws.String("f"), InvocationType: "DryRun"}))
	if out.StatusCode != 204 || !s.invoker.seen().DryRun {
		t.Errorf("dry run answered %d", out.StatusCode)
	}
}

func TestAnAPIWithoutItsPartsIsRefused(t *testing.T) {
	t.Parallel()
	_, err := lambdaapi.New(lambdaapi.Config{AccountID: "1", Region: "x"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, fault := range []string{"account id", "region", "DB", "Artifacts", "Invoker", "Logger"} {
		if !strings.Contains(err.Error(), fault) {
			t.Errorf("%q does not name %s", err, fault)
		}
	}
}
