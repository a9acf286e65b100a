package lambdaapi

import (
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	lambda "github.com/aws/aws-sdk-go-v2/service/lambda"
	"github.com/google/go-cmp/cmp"

	"github.com/hearth-compute/hearth/controlplane"
)

// TestEveryOperationServedSurvivesTheSDK sends a request with every member set
// with the SDK's client, and answers with every member set: what the operation
// sees is what was sent, and what the client gets is what was answered.
func TestEveryOperationServedSurvivesTheSDK(t *testing.T) {
	t.Parallel()
	s := bare()
	operations := s.operations()
	s.mux = http.NewServeMux()
	s.route(operations)
	client := clientOf(t, s)
	for _, op := range operations {
		switch {
		case op.handle == nil:
		case op.call == nil && op.name() != "Invoke" && op.name() != streamOperation: // they have TestAnInvokeSurvivesTheSDK
			t.Errorf("%s is served without the codec", op.name())
		case op.call != nil:
			t.Run(op.name(), func(t *testing.T) { survives(t, client, op) })
		}
	}
}

func survives(t *testing.T, client *lambda.Client, op operation) {
	t.Helper()
	var seen any
	answer := op.call.response()
	fill(t, reflect.ValueOf(answer).Elem(), op.name())
	op.call.run = func(_ context.Context, in any) (any, error) {
		seen = in
		return answer, nil
	}
	method := reflect.ValueOf(client).MethodByName(op.name())
	sent := reflect.New(method.Type().In(1).Elem())
	fill(t, sent.Elem(), op.name())
	results := method.Call([]reflect.Value{reflect.ValueOf(t.Context()), sent})
	if err, _ := reflect.TypeAssert[error](results[1]); err != nil {
		t.Fatal(err)
	}
	everything := cmp.Exporter(func(reflect.Type) bool { return true })
	if diff := cmp.Diff(sent.Interface(), seen, everything); diff != "" {
		t.Errorf("the operation saw another request (-sent +seen):\n%s", diff)
	}
	got, want := results[0].Elem(), reflect.ValueOf(answer).Elem()
	for member := range got.Type().Fields() {
		if member.Name == "ResultMetadata" || !member.IsExported() {
			continue
		}
		answered := want.FieldByName(member.Name)
		if !answered.IsValid() {
			t.Errorf("no answer has %s", member.Name)
			continue
		}
		if diff := cmp.Diff(answered.Interface(), got.FieldByName(member.Name).Interface(), everything); diff != "" {
			t.Errorf("the client got another %s (-answered +got):\n%s", member.Name, diff)
		}
	}
}

func clientOf(t *testing.T, h http.Handler) *lambda.Client {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return lambda.New(lambda.Options{
		Region: "us-east-1", BaseEndpoint: &server.URL, RetryMaxAttempts: 1, HTTPClient: server.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "any", SecretAccessKey: "any"}, nil
		}),
	})
}

// fill sets v and everything in it to something that is not zero and that its
// type allows.
func fill(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Date(2026, 2, 3, 4, 5, 6, 789e6, time.UTC)))
		return
	}
	switch v.Kind() { //nolint:exhaustive // the others are scalars
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), name)
	case reflect.Struct:
		for member, f := range v.Fields() {
			if member.IsExported() && member.Name != "ResultMetadata" {
				fill(t, f, member.Name)
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), name)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, name)
		fill(t, value, name)
		v.SetMapIndex(key, value)
	default:
		fillScalar(t, v, name)
	}
}

func fillScalar(t *testing.T, v reflect.Value, name string) {
	t.Helper()
	switch values := v.MethodByName("Values"); {
	case values.IsValid(): // an enum
		v.Set(values.Call(nil)[0].Index(0))
	case name == "StatusCode":
		v.SetInt(http.StatusAccepted)
	case v.Kind() == reflect.String:
		v.SetString(name + ` é&<>"\%2F+ a/b=c;d?e#f:$g`)
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(7)
	case v.Kind() == reflect.Uint8:
		v.SetUint(0xfe)
	case v.CanFloat():
		v.SetFloat(0.1)
	default:
		t.Errorf("%s has type %s, which this test cannot fill", name, v.Type())
	}
}

// answering answers every invoke the same and keeps what it was asked.
type answering struct {
	asked  controlplane.InvokeRequest
	result controlplane.InvokeResult
}

func (a *answering) Invoke(_ context.Context, req controlplane.InvokeRequest) (controlplane.InvokeResult, error) {
	a.asked = req
	return a.result, nil
}

// TestAnInvokeSurvivesTheSDK is the round trip of the operation that has no
// codec: of every member it does not refuse.
func TestAnInvokeSurvivesTheSDK(t *testing.T) {
	t.Parallel()
	router := &answering{result: controlplane.InvokeResult{Executed: "7", FunctionError: "Unhandled", Payload: []byte(`{"out":"é\u0000"}`)}}
	cfg := bare().cfg
	cfg.Invoker = router
	text, payload := `{"custom":{"a":"é"}}`, []byte(`{"in":"é\u0000<&>"}`)
	out, err := clientOf(t, newServer(cfg)).Invoke(t.Context(), &lambda.InvokeInput{
		FunctionName: new("arn:aws:lambda:us-east-1:123456789012:function:f"), Qualifier: new("$LATEST.PUBLISHED"),
		ClientContext: new(base64.StdEncoding.EncodeToString([]byte(text))), Payload: payload,
		InvocationType: "RequestResponse", LogType: "None",
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := router.asked
	if asked.Function != "f" || asked.Qualifier != "$LATEST.PUBLISHED" || asked.ClientContext != text || asked.DryRun ||
		!slices.Equal(asked.Payload, payload) || asked.RequestID == "" {
		t.Errorf("the router was asked %+v", asked)
	}
	if out.StatusCode != 200 || *out.ExecutedVersion != "7" || *out.FunctionError != "Unhandled" || string(out.Payload) != string(router.result.Payload) {
		t.Errorf("the client got %+v", out)
	}
}

func TestAStreamedInvokeSurvivesTheSDK(t *testing.T) {
	t.Parallel()
	router := &answering{result: controlplane.InvokeResult{Executed: "7"}}
	cfg := bare().cfg
	cfg.Invoker = router
	text, payload := `{"custom":{"a":"é"}}`, []byte(`{"in":"é\u0000<&>"}`)
	_, err := clientOf(t, newServer(cfg)).InvokeWithResponseStream(t.Context(), &lambda.InvokeWithResponseStreamInput{
		FunctionName: new("arn:aws:lambda:us-east-1:123456789012:function:f"), Qualifier: new("$LATEST.PUBLISHED"),
		ClientContext: new(base64.StdEncoding.EncodeToString([]byte(text))), Payload: payload,
		InvocationType: "RequestResponse", LogType: "None",
	})
	if err != nil {
		t.Fatal(err)
	}
	streamed := router.asked
	if streamed.Function != "f" || streamed.Qualifier != "$LATEST.PUBLISHED" || streamed.ClientContext != text || streamed.DryRun ||
		!slices.Equal(streamed.Payload, payload) || streamed.RequestID == "" || streamed.Stream == nil {
		t.Errorf("the router was asked %+v", streamed)
	}
}
