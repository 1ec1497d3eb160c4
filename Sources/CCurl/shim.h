#pragma once
#include <curl/curl.h>
#include <linux/sockios.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

// Swift cannot call functions with variable arguments: one wrapper per type of argument.

typedef size_t (*cf_curl_data_function)(char *, size_t, size_t, void *);
typedef int (*cf_curl_seek_function)(void *, curl_off_t, int);

static inline CURLcode cf_curl_set_long(CURL *handle, CURLoption option, long value) {
    return curl_easy_setopt(handle, option, value);
}
static inline CURLcode cf_curl_set_size(CURL *handle, CURLoption option, curl_off_t value) {
    return curl_easy_setopt(handle, option, value);
}
static inline CURLcode cf_curl_set_string(CURL *handle, CURLoption option, const char *value) {
    return curl_easy_setopt(handle, option, value);
}
static inline CURLcode cf_curl_set_pointer(CURL *handle, CURLoption option, void *value) {
    return curl_easy_setopt(handle, option, value);
}
static inline CURLcode cf_curl_set_data_function(CURL *handle, CURLoption option, cf_curl_data_function value) {
    return curl_easy_setopt(handle, option, value);
}
static inline CURLcode cf_curl_set_seek_function(CURL *handle, cf_curl_seek_function value) {
    return curl_easy_setopt(handle, CURLOPT_SEEKFUNCTION, value);
}
static inline CURLMcode cf_curl_multi_set_long(CURLM *multi, CURLMoption option, long value) {
    return curl_multi_setopt(multi, option, value);
}
static inline long cf_curl_get_long(CURL *handle, CURLINFO info) {
    long value = 0;
    return curl_easy_getinfo(handle, info, &value) == CURLE_OK ? value : 0;
}
static inline void *cf_curl_get_private(CURL *handle) {
    char *value = NULL;
    return curl_easy_getinfo(handle, CURLINFO_PRIVATE, &value) == CURLE_OK ? value : NULL;
}

/// Only http and https, whatever a URL says.
static inline void cf_curl_restrict_protocols(CURL *handle) {
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(handle, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

/// A handle that is taken out while its name is being looked up does not wait for the resolver.
static inline void cf_curl_set_quick_exit(CURL *handle) {
#if LIBCURL_VERSION_NUM >= 0x075700
    curl_easy_setopt(handle, CURLOPT_QUICK_EXIT, 1L);
#else
    (void)handle;
#endif
}

static inline int cf_curl_set_no_linger(void *context, curl_socket_t socket, curlsocktype purpose) {
    const struct linger none = {1, 0};
    (void)context;
    (void)purpose;
    setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    return CURL_SOCKOPT_OK;
}
/// Has connections end with a reset: what the machine has not sent by then is never sent (socket(7), SO_LINGER).
static inline void cf_curl_end_with_reset(CURL *handle) {
    curl_easy_setopt(handle, CURLOPT_SOCKOPTFUNCTION, cf_curl_set_no_linger);
}

/// Bytes that the other side has not acknowledged yet (tcp(7), SIOCOUTQ); -1 when there is no connection.
static inline int cf_curl_unacknowledged(CURL *handle) {
    curl_socket_t socket = CURL_SOCKET_BAD;
    int bytes = -1;
    if (curl_easy_getinfo(handle, CURLINFO_ACTIVESOCKET, &socket) != CURLE_OK || socket == CURL_SOCKET_BAD) return -1;
    return ioctl(socket, SIOCOUTQ, &bytes) == 0 ? bytes : -1;
}
