#pragma once
#include <libssh2.h>
#include <stdlib.h>
#include <string.h>

// Answers what a server asks (keyboard-interactive) with the password that `abstract` points to: every question whose
// answer is not to be shown. libssh2 frees the answers. Types of the prompts differ between libssh2 1.10 and 1.11.
static inline void cf_ssh_answer(
    const char *name, int name_length, const char *instruction, int instruction_length, int count,
    const LIBSSH2_USERAUTH_KBDINT_PROMPT *prompts, LIBSSH2_USERAUTH_KBDINT_RESPONSE *responses, void **abstract) {
    const char *password = (const char *)*abstract;
    (void)name;
    (void)name_length;
    (void)instruction;
    (void)instruction_length;
    for (int i = 0; i < count; i++) {
        responses[i].text = NULL;
        responses[i].length = 0;
        if (password == NULL || prompts[i].echo) continue;
        responses[i].text = strdup(password);
        if (responses[i].text != NULL) responses[i].length = (unsigned int)strlen(password);
    }
}

/// Keyboard-interactive authentication with a password; to be called again for as long as it answers EAGAIN.
static inline int cf_ssh_keyboard_interactive(
    LIBSSH2_SESSION *session, const char *user, const char *password) {
    *libssh2_session_abstract(session) = (void *)password;
    int code = libssh2_userauth_keyboard_interactive_ex(session, user, (unsigned int)strlen(user), cf_ssh_answer);
    *libssh2_session_abstract(session) = NULL;
    return code;
}

static inline LIBSSH2_CHANNEL *cf_ssh_open_channel(LIBSSH2_SESSION *session, unsigned int window) {
    return libssh2_channel_open_ex(session, "session", 7, window, LIBSSH2_CHANNEL_PACKET_DEFAULT, NULL, 0);
}
static inline int cf_ssh_start_subsystem(LIBSSH2_CHANNEL *channel, const char *name) {
    return libssh2_channel_process_startup(channel, "subsystem", 9, name, (unsigned int)strlen(name));
}
