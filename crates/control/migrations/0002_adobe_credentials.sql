-- What a key with Adobe authentication needs: base64(MD5(id, salt, password)), which is as good as the password to a
-- server of this protocol, encrypted with the pepper of the key's version. 12 bytes nonce, ciphertext, 16 bytes tag, as
-- hex digits. NULL: the key has no password.
ALTER TABLE stream_keys ADD COLUMN adobe_sealed TEXT;
