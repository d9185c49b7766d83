// Issues a stream key, follows its sessions and revokes it.
//
//	go run . ADDRESS CA_FILE TOKEN_FILE APP STREAM
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"headwater.dev/example/headwaterv1"
)

// bearer presents an API token with every call, over TLS alone.
type bearer string

func (token bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(token)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "go run . ADDRESS CA_FILE TOKEN_FILE APP STREAM")
		os.Exit(1)
	}
	if err := run(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", reason(err), err)
		os.Exit(1)
	}
}

func run(address, caFile, tokenFile, app, stream string) error {
	tls, err := credentials.NewClientTLSFromFile(caFile, "")
	if err != nil {
		return err
	}
	text, err := os.ReadFile(tokenFile)
	if err != nil {
		return err
	}
	tokens := strings.Fields(string(text))
	if len(tokens) == 0 {
		return errors.New("the token file is empty")
	}
	connection, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(tls),
		grpc.WithPerRPCCredentials(bearer(tokens[0])),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second}))
	if err != nil {
		return err
	}
	defer connection.Close()
	keys := headwaterv1.NewStreamKeyServiceClient(connection)
	events := headwaterv1.NewEventServiceClient(connection)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	created, err := keys.CreateStreamKey(ctx, &headwaterv1.CreateStreamKeyRequest{
		App:         app,
		Stream:      stream,
		Description: "issued by the Go example",
		Labels:      map[string]string{"plan": "basic"},
		Policy: &headwaterv1.PublishPolicy{
			Limits: &headwaterv1.MediaLimits{MaxBitrateBps: 20_000_000, MaxWidth: 1920, MaxHeight: 1920},
		},
		// Sent again after a timeout, this creates no second key.
		RequestId: rand.Text(),
	})
	if err != nil {
		return err
	}
	key := created.GetStreamKey()
	fmt.Println("created", key.GetId(), created.GetSecret())
	if err := follow(events, key); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := keys.RevokeStreamKey(ctx, &headwaterv1.RevokeStreamKeyRequest{Id: key.GetId(), Reason: "the show is over"}); err != nil {
		return err
	}
	fmt.Println("revoked", key.GetId())
	return nil
}

// follow prints the key's sessions as they start and end, until one has ended.
func follow(events headwaterv1.EventServiceClient, key *headwaterv1.StreamKey) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch, err := events.WatchEvents(ctx, &headwaterv1.WatchEventsRequest{
		// Since the key is there: an event between the two calls is not missed.
		Since: key.GetCreateTime(),
		App:   key.GetApp(),
		Types: []headwaterv1.EventType{
			headwaterv1.EventType_EVENT_TYPE_SESSION_STARTED,
			headwaterv1.EventType_EVENT_TYPE_SESSION_ENDED,
		},
	})
	if err != nil {
		return err
	}
	for {
		answer, err := watch.Recv()
		if err != nil {
			return err
		}
		for _, event := range answer.GetEvents() {
			session := event.GetSession()
			if session.GetStreamKeyId() != key.GetId() {
				continue
			}
			if event.GetType() == headwaterv1.EventType_EVENT_TYPE_SESSION_STARTED {
				fmt.Println("started", session.GetSessionId())
				continue
			}
			fmt.Println("ended", session.GetSessionId(), session.GetReason())
			return nil
		}
	}
}

// reason is what a backend decides by: ErrorInfo.reason, which is documented and stable.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return status.Code(err).String()
}
