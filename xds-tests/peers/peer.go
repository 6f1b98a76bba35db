// HTTP/2 of Go's net/http in clear text: `peer serve PORT` or `peer call PORT PATH TRAILERS`.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
)

const (
	bodySize = 600_000
	streams  = 3000
	atOnce   = 50
)

func main() {
	if os.Args[1] == "serve" {
		serve(os.Args[2])
		return
	}
	if err := call(os.Args[2], os.Args[3], os.Args[4] == "trailers"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("OK")
}

func protocols() *http.Protocols {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return protocols
}

func serve(port string) {
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Trailer", "x-length, x-sent")
		w.WriteHeader(200)
		_, _ = w.Write(body)
		w.Header().Set("x-length", strconv.Itoa(len(body)))
		w.Header().Set("x-sent", r.Trailer.Get("x-sent"))
	}
	server := http.Server{Addr: "127.0.0.1:" + port, Handler: http.HandlerFunc(echo), Protocols: protocols()}
	panic(server.ListenAndServe())
}

func call(port, path string, trailers bool) error {
	client := http.Client{Transport: &http.Transport{Protocols: protocols()}}
	post := func(size int, fill string) error {
		body := strings.Repeat(fill, size)
		request, err := http.NewRequest("POST", "http://127.0.0.1:"+port+path, io.NopCloser(strings.NewReader(body)))
		if err != nil {
			return err
		}
		request.Trailer = http.Header{"X-Sent": {"yes"}}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		got, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if response.StatusCode != 200 || response.ProtoMajor != 2 {
			return fmt.Errorf("%s %s %s", response.Proto, response.Status, got)
		}
		if !bytes.Equal(got, []byte(body)) {
			return fmt.Errorf("sent %d, got %d", len(body), len(got))
		}
		seen := response.Trailer.Get("x-length") + " " + response.Trailer.Get("x-sent")
		if trailers && seen != strconv.Itoa(size)+" yes" {
			return fmt.Errorf("trailers: %q", seen)
		}
		return nil
	}
	if err := post(bodySize, "b"); err != nil {
		return err
	}
	var group sync.WaitGroup
	tokens := make(chan struct{}, atOnce)
	failures := make(chan error, streams)
	for i := range streams {
		tokens <- struct{}{}
		group.Go(func() {
			failures <- post(i%300+1, "s")
			<-tokens
		})
	}
	group.Wait()
	close(failures)
	for failure := range failures {
		if failure != nil {
			return failure
		}
	}
	return nil
}
