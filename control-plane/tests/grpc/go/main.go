// Go's gRPC without a proxy: the same as client.py, or with `xds PORT` the same as server.py.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	credentials "google.golang.org/grpc/credentials/xds"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/xds"
)

// Messages are bytes.
type raw struct{}

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*v.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func (raw) Name() string { return "raw" }

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func call(connection *grpc.ClientConn) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	request, answer := []byte("hello"), []byte{}
	err := connection.Invoke(ctx, "/peer.Echo/Unary", &request, &answer, grpc.ForceCodecV2(raw{}), grpc.WaitForReady(true))
	if err != nil {
		return fmt.Sprint(status.Code(err), " ", status.Convert(err).Message())
	}
	return string(answer)
}

func client() {
	options := credentials.ClientOptions{FallbackCreds: insecure.NewCredentials()}
	creds := grpc.WithTransportCredentials(must(credentials.NewClientCredentials(options)))
	connections := map[string]*grpc.ClientConn{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		target := lines.Text()
		if connections[target] == nil {
			connections[target] = must(grpc.NewClient(target, creds))
		}
		fmt.Println(call(connections[target]))
	}
}

func serve(port string) {
	encoding.RegisterCodecV2(raw{})
	options := credentials.ServerOptions{FallbackCreds: insecure.NewCredentials()}
	creds := grpc.Creds(must(credentials.NewServerCredentials(options)))
	server := must(xds.NewGRPCServer(creds, grpc.ForceServerCodecV2(raw{})))
	echo := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		message := []byte{}
		if err := decode(&message); err != nil {
			return nil, err
		}
		message = append(message, " of xds"...)
		return &message, nil
	}
	// Interceptors are where xDS decides who may call.
	method := func(srv any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		if interceptor == nil {
			return echo(srv, ctx, decode, nil)
		}
		info := &grpc.UnaryServerInfo{Server: srv, FullMethod: "/peer.Echo/Unary"}
		next := func(ctx context.Context, _ any) (any, error) { return echo(srv, ctx, decode, nil) }
		return interceptor(ctx, nil, info, next)
	}
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "peer.Echo",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Unary", Handler: method}},
	}, struct{}{})
	listener := must(net.Listen("tcp", "127.0.0.1:"+port))
	must(0, server.Serve(listener))
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "xds" {
		serve(os.Args[2])
		return
	}
	client()
}
